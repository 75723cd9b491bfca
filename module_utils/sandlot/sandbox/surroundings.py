# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The host's part in a crash: room on its disk, listeners on its ports, other sandboxes."""

from __future__ import annotations

import os

from .. import network
from ..errors import SandlotError
from ..site import Site
from . import record
from .names import recorded
from .record import Record

# Root's reserve stays when a tenant's writes fail.
_FULL = 0.01


def space(site: Site) -> str:
    """The remedy when the disk of the sandboxes is used up, "" while there is room."""
    status = os.statvfs(site.sandboxes)
    if status.f_bavail <= _FULL * status.f_blocks:
        return f"the disk of {site.sandboxes} is full: free space on the host"
    if status.f_files and status.f_favail <= _FULL * status.f_files:
        return f"the disk of {site.sandboxes} has no inodes left: remove files on the host"
    return ""


def holder(port: int) -> str:
    """The program of the host that listens on a port, "" if none is found."""
    listeners = [item for item in network.listeners() if item.port == port]
    return next((text for item in listeners if (text := network.holder(item))), "")


def neighbour(site: Site, name: str) -> Record | None:
    """The record of a sandbox of this host."""
    if name not in recorded(site):
        return None
    try:
        return record.load(site, name)
    except SandlotError:
        return None
