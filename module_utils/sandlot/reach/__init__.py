# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reaches into sandboxes by the socket of their inits."""
