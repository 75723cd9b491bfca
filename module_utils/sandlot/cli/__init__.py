# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The `sandlot` command of a host."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
