# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Subordinate id ranges: one for each sandbox, the same in /etc/subuid and /etc/subgid."""

from __future__ import annotations

from .allocate import FIRST, LAST, allocate, available
from .edit import operations
from .files import SIZE, IdFile, IdFiles, IdRange, observe, owner, recorded, reserved

__all__ = [
    "FIRST",
    "LAST",
    "SIZE",
    "IdFile",
    "IdFiles",
    "IdRange",
    "allocate",
    "available",
    "observe",
    "operations",
    "owner",
    "recorded",
    "reserved",
]
