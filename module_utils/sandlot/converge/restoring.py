# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Restores: a rebuild whose new layer is that of a snapshot, with all that a rebuild can undo."""

from __future__ import annotations

from typing import Dict, List

from .. import sizes
from ..errors import SandlotError
from ..sandbox import mounts, runtime
from ..sandbox.crash import WATCH
from ..sandbox.record import Record, Records
from ..site import Site
from ..snapshots.content import Content
from ..snapshots.model import Snapshot
from .decide import Desired
from .resolve import Request


def request(
    site: Site,
    records: Records,
    entry: Record,
    snapshot: Snapshot,
    *,
    volumes: bool,
    force: bool,
    check: bool,
) -> Request:
    """The request that restores a snapshot; SandlotError when it does not fit."""
    _check_image(snapshot, entry, force=force)
    names = _volumes(site, entry, snapshot) if volumes else []
    _check_users(site, records, entry, names)
    content = Content(snapshot, {name: name for name in names})
    desired = Desired(entry.name, entry.wanted, entry.spec, keep_image=True, content=content)
    return Request((desired,), check=check, watch=WATCH)


def _check_image(snapshot: Snapshot, entry: Record, *, force: bool) -> None:
    image = snapshot.record.image if snapshot.record else None
    if force or (image is not None and image.digest == entry.image.digest):
        return
    known = f"{image.name} ({image.digest[:12]})" if image else "an unknown image"
    raise SandlotError(
        f"snapshot {snapshot.name} is a layer of {known}, and {entry.name} runs on"
        f" {entry.image.name} ({entry.image.digest[:12]}): files of the layer may hide newer ones",
        hint=f"clone it (state: clone), give {entry.name} that image again, or set force: true",
    )


def _volumes(site: Site, entry: Record, snapshot: Snapshot) -> List[str]:
    """The volumes of a snapshot; each has to be one that the sandbox uses now."""
    used = mounts.volume_names(entry)
    for name in snapshot.volumes:
        if name not in used or not sizes.exists(sizes.of_volume(site, name)):
            raise SandlotError(
                f"snapshot {snapshot.name} has volume {name}, which {entry.name} does not use now",
                hint=f"mount it in {entry.name} again, or restore the layer only (volumes: false)",
            )
    return list(snapshot.volumes)


def _check_users(site: Site, records: Records, entry: Record, names: List[str]) -> None:
    others: Dict[str, List[str]] = {}
    for other, known in records.good.items():
        shared = [name for name in mounts.volume_names(known) if name in names]
        if other != entry.name and shared and runtime.running(site.sandbox(other)):
            others[other] = shared
    for other, shared in others.items():
        raise SandlotError(
            f"sandbox {other} runs on volume {shared[0]}, which would be replaced",
            hint=f"stop it first (sandlot stop {other}), or restore the layer only"
            " (volumes: false)",
        )
