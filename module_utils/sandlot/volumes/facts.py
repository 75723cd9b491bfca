# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Facts of volumes: settings, users and, when asked, the space that their files take."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Sequence

from ..site import Site
from .model import Volume
from .planning import Users

Json = Dict[str, Any]


def facts(site: Site, volume: Volume, users: Sequence[str]) -> Json:
    """Facts of a volume that cost no look at its files."""
    image = {"sandbox": volume.sandbox, "target": volume.target} if volume.sandbox else {}
    return {
        "name": volume.name,
        "size": volume.size,
        "labels": dict(volume.labels),
        "created": volume.created,
        "path": site.volume(volume.name).data,
        "used_by": sorted(users),
        **image,
    }


def all_facts(site: Site, volumes: Mapping[str, Volume], users: Users) -> Dict[str, Json]:
    return {name: facts(site, item, users.get(name, ())) for name, item in sorted(volumes.items())}


def shown(volumes: Mapping[str, Volume]) -> Dict[str, Json]:
    """The settings of volumes, as a diff shows them."""
    return {
        name: {"size": item.size, "labels": dict(item.labels)}
        for name, item in sorted(volumes.items())
    }
