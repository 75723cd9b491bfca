# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Data that a host holds: volumes with their users, and the sizes of volumes and layers."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping

from .. import sizes, volumes
from ..kernel import mount_points
from ..sandbox import mounts
from ..sandbox.record import Records, load_all
from ..site import Site
from ..snapshots import aside, contents
from ..volumes import Volume, Volumes

Json = Dict[str, Any]

# A volume may have more files than a layer; half a second.
_MOST = 100_000


def volumes_info(site: Site, *, measured: bool = True) -> List[Json]:
    """Facts of all volumes in the order of their names; ``measured`` ones with what they hold."""
    known, users = volumes.load_all(site), _users(load_all(site))
    return [
        *(_volume(site, item, users, measured=measured) for item in _sorted(known)),
        *({"name": name, "error": str(error)} for name, error in sorted(known.broken.items())),
    ]


def _sorted(known: Volumes) -> List[Volume]:
    return [known.good[name] for name in sorted(known.good)]


def _users(records: Records) -> Dict[str, List[str]]:
    users: Dict[str, List[str]] = {}
    for name, entry in records.good.items():
        for volume in mounts.volume_names(entry):
            users.setdefault(volume, []).append(name)
    return users


def _volume(site: Site, volume: Volume, users: Mapping[str, List[str]], *, measured: bool) -> Json:
    facts = volumes.facts(site, volume, users.get(volume.name, []))
    return {**facts, **_held(site, volume)} if measured else facts


def _held(site: Site, volume: Volume) -> Json:
    """The bytes in a volume, as the kernel counts or by a look at its files; perhaps ``more``."""
    place = volumes.place(site, volume.name)
    bound = sizes.look(site, place)
    if bound.way:
        used = bound.used
        if not bound.ready and os.path.exists(place.image):
            used = os.stat(place.image).st_blocks * 512
        return {"used": used, "more": False, "enforced_by": bound.way}
    counted = contents.look(place.directory, {}, most=_MOST)
    return {"used": counted.size, "more": counted.more, "enforced_by": None}


def layer_sizes(site: Site) -> Dict[str, Json]:
    """The bytes that each sandbox wrote to its layer, and whether there is ``more``."""
    names = sorted(load_all(site).names())
    with mount_points.kept():
        looks = {name: aside.look(site, site.sandbox(name)) for name in names}
    return {name: {"layer_size": look.size, "more": look.more} for name, look in looks.items()}
