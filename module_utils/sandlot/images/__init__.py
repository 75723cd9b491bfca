# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images: root file systems kept once per host, each known by the digest of what it was made of."""

from __future__ import annotations

from .apply import apply, uploads_needed, with_uploads
from .model import Image, ImageSpec
from .normalise import argument_spec, normalise, normalise_all, options
from .records import check_made, facts, find, is_one_tree, is_pinned_to, lookup, observe
from .shifted import shift_operations, shifted
from .sources import SOURCES
from .store import desired, operations, planned, prune_operations

__all__ = [
    "SOURCES",
    "Image",
    "ImageSpec",
    "apply",
    "argument_spec",
    "check_made",
    "desired",
    "facts",
    "find",
    "is_one_tree",
    "is_pinned_to",
    "lookup",
    "normalise",
    "normalise_all",
    "observe",
    "operations",
    "options",
    "planned",
    "prune_operations",
    "shift_operations",
    "shifted",
    "uploads_needed",
    "with_uploads",
]
