# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandlot engine: plain Python, standard library plus pyroute2 (imported lazily, for changes only)."""

__version__ = "0.1.0"
