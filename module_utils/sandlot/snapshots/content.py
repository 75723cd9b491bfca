# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Fills a fresh layer with that of a snapshot."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Optional

from .. import sizes
from ..errors import SandlotError
from ..idmap import IdRange
from ..kernel.copying import Shift, copy_tree
from ..sandbox.record import ImageRef
from ..site import SandboxPaths, Site, SnapshotPaths
from . import identity
from .model import Snapshot

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Content:
    """The content that a sandbox gets: the layer of a snapshot, and its volumes by new names.

    A clone is another machine than the original: it makes its own identity. It gets ``image``, by
    default the one that its spec names, with ``config`` added to the image's.
    """

    snapshot: Snapshot
    volumes: Mapping[str, str] = field(default_factory=dict, hash=False)
    clone: bool = False
    image: Optional[ImageRef] = None
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)


def fill_layer(site: Site, content: Content, sandbox: SandboxPaths, ids: IdRange) -> None:
    """Copy the snapshot's layer to the empty one of a sandbox, or of its slot."""
    snapshot = content.snapshot
    with layer_of(site, snapshot) as reading:
        writing = os.open(sandbox.upper, _DIRECTORY)
        try:
            copy_tree(reading, writing, Shift(snapshot.ids.start, ids.start, ids.size))
            if content.clone:
                identity.forget(writing)
        finally:
            os.close(writing)


@contextlib.contextmanager
def layer_of(site: Site, snapshot: Snapshot) -> Iterator[int]:
    """A descriptor of a snapshot's layer; a file system in a file is mounted meanwhile."""
    paths = site.snapshot(snapshot.sandbox, snapshot.id)
    place = sizes.Place(paths.layer, paths.image, ("upper",))
    if not sizes.exists(place):
        raise SandlotError(
            f"snapshot {snapshot.name} has no layer",
            hint=f"remove it: sandlot snapshots rm {snapshot.sandbox} {snapshot.id}",
        )
    mounted = os.path.exists(place.image)
    if mounted:
        sizes.mount(place)
    try:
        fd = os.open(paths.upper, _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        if mounted:
            sizes.unmount(place)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(place.directory)


def volume_of(paths: SnapshotPaths, name: str) -> str:
    return f"{paths.volumes}/{name}"
