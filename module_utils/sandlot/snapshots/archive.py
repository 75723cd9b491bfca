# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes a snapshot as one tar stream: a manifest, then the layer and volumes with ids inside.

sandlot-snapshot.json    the manifest
layer/...                the layer, with overlayfs's marks and whiteouts
volumes/NAME/...         the volumes
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Dict, List, Mapping, NoReturn, Tuple

from ..errors import SandlotError
from ..kernel import attributes, mounts
from ..kernel.attributes import Owner
from ..kernel.copying import Shift, same
from ..kernel.filedata import extents
from ..site import Site
from ..spec import Spec, stored
from ..spec.options import SECRET
from ..spec.values import Sealed
from .content import layer_of, volume_of
from .model import Snapshot
from .tarwriter import CHARACTER, DIRECTORY, FIFO, HARD_LINK, SYMLINK, TarWriter

FORMAT = 1
MANIFEST = "sandlot-snapshot.json"
LAYER, VOLUMES = "layer", "volumes"
# As deep and as long as an import takes: it makes files by their whole paths (PATH_MAX).
MAX_DEPTH, MAX_PATH = 180, 4095
# The ids inside.
SIZE = 65536
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_INSIDE = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
_WHITEOUT = os.makedev(0, 0)
_PLAIN = {stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO, stat.S_IFCHR: CHARACTER}


def manifest(snapshot: Snapshot) -> Dict[str, Any]:
    """The description of a snapshot for another host: values of secret options stay here."""
    record = snapshot.record
    about: Dict[str, Any] = {
        "format": FORMAT,
        "sandbox": snapshot.sandbox,
        "id": snapshot.id,
        "created": snapshot.created,
        "reason": snapshot.reason,
        "size": snapshot.size,
        "files": snapshot.files,
        "volumes": list(snapshot.volumes),
    }
    if record is None:
        return about
    spec = stored.to_json(record.spec)
    hidden = sorted(name for name in SECRET if spec.get(name))
    return {
        **about,
        "wanted": record.wanted,
        "image": {"name": record.image.name, "digest": record.image.digest},
        "image_volumes": dict(record.volumes),
        "spec": {key: value for key, value in spec.items() if key not in SECRET},
        "left_out": hidden,
        "to_bring": to_bring(record.spec),
    }


def to_bring(spec: Spec) -> Dict[str, List[str]]:
    """The names of contents that no archive has, by option."""
    variables = [name for name, value in spec.env if isinstance(value, Sealed)]
    named = {
        "files": [entry.target for entry in spec.files],
        "secrets": [entry.name for entry in spec.secrets],
        "env": variables,
    }
    return {option: names for option, names in named.items() if names}


def export(site: Site, snapshot: Snapshot, fd: int) -> None:
    """Write a snapshot to a descriptor."""
    writer = TarWriter(fd)
    about = json.dumps(manifest(snapshot), indent=2, sort_keys=True).encode() + b"\n"
    writer.add_text(MANIFEST.encode(), about, snapshot.created)
    with layer_of(site, snapshot) as layer:
        owner = Shift(snapshot.ids.start, 0, SIZE)
        _Tree(snapshot, writer, owner).add(layer, LAYER.encode())
    paths = site.snapshot(snapshot.sandbox, snapshot.id)
    for name in snapshot.volumes:
        volume = os.open(volume_of(paths, name), _DIRECTORY)
        try:
            _Tree(snapshot, writer, same).add(volume, f"{VOLUMES}/{name}".encode())
        finally:
            os.close(volume)
    writer.close()


class _Tree:
    """One tree of the archive; its names and files are a tenant's."""

    def __init__(self, snapshot: Snapshot, writer: TarWriter, owner: Owner) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._owner = owner
        self._first: Dict[Tuple[int, int], bytes] = {}

    def add(self, directory: int, name: bytes) -> None:
        if name.count(b"/") > MAX_DEPTH:
            self._refuse(f"a directory more than {MAX_DEPTH} deep")
        status = os.fstat(directory)
        self._writer.add(
            name + b"/",
            DIRECTORY,
            status,
            owner=self._owners(status),
            attributes=self._attributes(directory),
        )
        os.lseek(directory, 0, os.SEEK_SET)
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        for entry in names:
            self._entry(directory, entry, name + b"/" + os.fsencode(entry))

    def _refuse(self, what: str) -> NoReturn:
        raise SandlotError(
            f"snapshot {self._snapshot.name} has {what}",
            hint="an archive can't hold it: clone the snapshot, shorten the tree, and export"
            " a snapshot of the clone",
        )

    def _entry(self, directory: int, entry: str, name: bytes) -> None:
        if len(name) > MAX_PATH:
            self._refuse(f"a path of more than {MAX_PATH} bytes")
        status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            child = mounts.openat2(directory, entry, _DIRECTORY, _INSIDE)
            try:
                self.add(child, name)
            finally:
                os.close(child)
            return
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._first:
            owner = self._owners(status)
            self._writer.add(name, HARD_LINK, status, owner=owner, link=self._first[key])
            return
        if kind == stat.S_IFREG:
            self._file(directory, entry, name)
        elif kind in _PLAIN and (kind != stat.S_IFCHR or status.st_rdev == _WHITEOUT):
            link = os.readlink(entry, dir_fd=directory) if kind == stat.S_IFLNK else ""
            self._writer.add(
                name, _PLAIN[kind], status, owner=self._owners(status), link=os.fsencode(link)
            )
        else:
            return  # a socket: its program makes it again
        if status.st_nlink > 1:
            self._first[key] = name

    def _file(self, directory: int, entry: str, name: bytes) -> None:
        fd = os.open(entry, _FILE, dir_fd=directory)
        try:
            status = os.fstat(fd)
            parts = list(extents(fd, status.st_size))
            own = self._attributes(fd)
            owner = self._owners(status)
            self._writer.add_file(name, fd, status, parts, owner=owner, attributes=own)
        finally:
            os.close(fd)

    def _owners(self, status: os.stat_result) -> Tuple[int, int]:
        return self._owner(status.st_uid), self._owner(status.st_gid)

    def _attributes(self, fd: int) -> Mapping[str, bytes]:
        return attributes.collected(fd, self._owner)
