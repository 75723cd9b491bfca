# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images: root file systems kept once per host, each known by the digest of what it was made of."""

from __future__ import annotations

from .model import SOURCES, Image, ImageSpec, normalise, normalise_all
from .shifted import shift_operations, shifted
from .store import desired, facts, lookup, observe, operations, prune_operations

__all__ = [
    "SOURCES",
    "Image",
    "ImageSpec",
    "desired",
    "facts",
    "lookup",
    "normalise",
    "normalise_all",
    "observe",
    "operations",
    "prune_operations",
    "shift_operations",
    "shifted",
]
