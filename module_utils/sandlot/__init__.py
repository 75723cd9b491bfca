# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandlot engine: plain Python and its standard library; pyroute2 only where links change."""

__version__ = "0.1.0"
