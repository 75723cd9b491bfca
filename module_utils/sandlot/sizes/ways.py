# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Chooses how the host can bound the size of a directory."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from ..errors import HostError
from ..kernel import files, filesystems, loop_devices, program, quotas
from .model import FILE, PROJECT

MKFS = "mkfs.ext4"
_BETTER = (
    "for a project quota, mount it with prjquota (ext4 made with -O quota,project; tune2fs adds "
    "them while it is not mounted) or with pquota (xfs)"
)


@dataclass(frozen=True)
class Way:
    """How sizes are enforced; ``name`` is "" if they can't be. Then ``remedy`` helps."""

    name: str
    detail: str
    remedy: str = ""


def choose(directory: str) -> Way:
    """The way for new directories below ``directory``, which need not exist yet."""
    place = files.existing(directory)
    if quotas.enforced(place):
        return Way(PROJECT, f"project quotas of the file system at {place}")
    missing = _missing()
    if not missing:
        detail = "a file system in a sparse file, as the one at {} has no project quotas"
        return Way(FILE, detail.format(place), _BETTER)
    what, remedy = missing
    detail = f"the file system at {place} has no project quotas, and {what}"
    return Way("", detail, f"{remedy}; {_BETTER}")


def require(directory: str, option: str) -> Way:
    """The way to enforce an option; HostError without one."""
    way = choose(directory)
    if not way.name:
        remedy = f"{way.remedy}; or leave {option} out"
        raise HostError(f"{option} can't be enforced: {way.detail}", hint=remedy)
    return way


def _missing() -> tuple[str, str] | None:
    """The first need of the way by a file that this host does not meet, and the remedy."""
    if not os.path.exists(loop_devices.CONTROL):
        return "there are no loop devices", "load the module loop"
    if not filesystems.offered("ext4"):
        return "the kernel has no ext4", "boot a kernel with it"
    if not shutil.which(MKFS, path=program.SYSTEM_PATH):
        return f"there is no {MKFS}", "install it (Debian: apt install e2fsprogs)"
    return None
