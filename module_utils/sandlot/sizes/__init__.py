# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Real limits on the size of directories: volumes, and layers of sandboxes."""

from __future__ import annotations

from .bounds import Bound, apply, check, due, look, remake
from .filesystem import is_mounted, unmount
from .model import FILE, LIVE, OFFLINE, PROJECT, Due, Place
from .places import commit, discard, exists, finish, mount, move, of_volume, opened, prepare
from .projects import release, sweep
from .ways import Way, choose, require

__all__ = [
    "FILE",
    "LIVE",
    "OFFLINE",
    "PROJECT",
    "Bound",
    "Due",
    "Place",
    "Way",
    "apply",
    "check",
    "choose",
    "commit",
    "discard",
    "due",
    "exists",
    "finish",
    "is_mounted",
    "look",
    "mount",
    "move",
    "of_volume",
    "opened",
    "prepare",
    "release",
    "remake",
    "require",
    "sweep",
    "unmount",
]
