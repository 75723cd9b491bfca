# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images: root file systems, stored once per host and named by the digest of their source."""

from __future__ import annotations

from .apply import done, due, make_trees, uploads_needed, with_uploads
from .build import Making
from .model import Image, ImageSpec
from .normalise import argument_spec, normalise, normalise_all, options
from .records import (
    Use,
    check_made,
    facts,
    find,
    is_one_tree,
    is_pinned_to,
    lookup,
    observe,
    shown,
    snapshot_uses,
    uses,
)
from .shifted import shift_operations, shifted
from .sources import SOURCES, on_image_change, profile
from .store import ImagePlan, desired, operations, planned, prune_operations, removals

__all__ = [
    "SOURCES",
    "Image",
    "ImagePlan",
    "ImageSpec",
    "Making",
    "Use",
    "argument_spec",
    "check_made",
    "desired",
    "done",
    "due",
    "facts",
    "find",
    "is_one_tree",
    "is_pinned_to",
    "lookup",
    "make_trees",
    "normalise",
    "normalise_all",
    "observe",
    "on_image_change",
    "operations",
    "options",
    "planned",
    "profile",
    "prune_operations",
    "removals",
    "shift_operations",
    "shifted",
    "shown",
    "snapshot_uses",
    "uploads_needed",
    "uses",
    "with_uploads",
]
