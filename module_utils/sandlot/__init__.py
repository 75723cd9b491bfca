# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandlot engine: Python's standard library, and pyroute2 where links change."""

__version__ = "0.1.0"
MINIMUM_PYTHON = (3, 9)
