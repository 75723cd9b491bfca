# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Services that start sandboxes after a boot and keep a launcher; one row for each manager."""

from __future__ import annotations

from typing import Tuple, Type

from ...site import Site
from .openrc import OpenRC
from .service import Service
from .systemd import Systemd
from .sysv import Sysvinit

__all__ = ["NONE", "Service", "find", "left", "manager"]

NONE = "none"
# The first service manager that the host has is used.
ROWS: Tuple[Type[Service], ...] = (Systemd, OpenRC, Sysvinit)


def find(site: Site) -> Service | None:
    """The service to install, None on a host without a known service manager."""
    return next((row(site) for row in ROWS if row.is_present(site)), None)


def manager(site: Site) -> str:
    service = find(site)
    return service.kind if service else NONE


def left(site: Site) -> list[Service]:
    """Services to remove, also of a service manager that the host had before."""
    # Two managers share the path of the init script; the present one knows its links.
    ordered = sorted(ROWS, key=lambda row: row.is_present(site))
    services = {row.place: row(site) for row in ordered}
    return [service for service in services.values() if service.traces()]
