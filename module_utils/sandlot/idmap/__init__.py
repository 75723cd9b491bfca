# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Subordinate id ranges: one for each sandbox, the same in /etc/subuid and /etc/subgid."""

from __future__ import annotations

from .allocate import FIRST, JOBS, LAST, allocate, available, of_job
from .edit import operations
from .files import SIZE, IdFile, IdFiles, IdRange, observe, owner, recorded, reserved

__all__ = [
    "FIRST",
    "JOBS",
    "LAST",
    "SIZE",
    "IdFile",
    "IdFiles",
    "IdRange",
    "allocate",
    "available",
    "observe",
    "of_job",
    "operations",
    "owner",
    "recorded",
    "reserved",
]
