# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The argument spec and the action of each Ansible module."""
