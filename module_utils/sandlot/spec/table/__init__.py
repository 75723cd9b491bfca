# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option table by subject: the only place that names, types and classes an option."""
