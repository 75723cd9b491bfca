# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resolves OCI layouts and docker save archives on this host without reading their layers."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import IO, Any, Dict, Iterator, List, Mapping, Sequence, Tuple, cast

from ...errors import SpecError
from ..model import ImageSpec
from ..tarstream import FILE, ArchiveError, Member, Stream, TarStream
from . import manifest
from .manifest import MAX_CONFIG, MAX_MANIFEST, ImageError
from .platforms import Platform
from .reference import DOCKER_ARCHIVE, OCI, Reference, familiar

_REF_NAME = "org.opencontainers.image.ref.name"
# Compressed archives, which every run would have to read as a whole.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_MAX_MEMBERS = 100_000


def find(spec: ImageSpec, reference: Reference, want: Platform) -> Tuple[str, Platform] | None:
    """The digest of the image and its platform; None when the path does not exist.

    The digest is that of the manifest in an OCI layout, and that of the config in an archive of
    docker save, as docker names images.
    """
    if not os.path.exists(reference.name):
        return None
    what = f"image {spec.name!r}: {reference}"
    try:
        if reference.transport == DOCKER_ARCHIVE:
            return _saved(reference, what), want
        return _in_layout(reference, want, what)
    except ArchiveError as error:
        raise ArchiveError(f"{what}: {error.message}", hint=error.hint) from error
    except OSError as error:
        hint = "name a file or directory that root can read on the managed host"
        problem = f"can't be read: {error.strerror or error}"
        raise SpecError("reference", str(reference), problem, hint=hint) from error


# -- OCI layouts


def _in_layout(reference: Reference, want: Platform, what: str) -> Tuple[str, Platform]:
    index = manifest.document(_read(reference, "index.json", MAX_MANIFEST), f"{what}: index.json")
    entries = index.get("manifests")
    entries = entries if isinstance(entries, list) else []
    known: Dict[str, Any] = {}
    for entry in reversed(entries):
        annotations = entry.get("annotations") if isinstance(entry, Mapping) else None
        name = annotations.get(_REF_NAME) if isinstance(annotations, Mapping) else None
        known[name if isinstance(name, str) else ""] = entry
    if reference.tag:
        entry = known.get(reference.tag)
    else:
        entry = entries[0] if len(entries) == 1 else None
    if entry is None:
        raise _no_such(what, sorted(known), count=len(entries))
    blob = manifest.blob(entry, what)
    data = _read(reference, f"blobs/sha256/{blob.hex}", MAX_MANIFEST)
    parsed = manifest.document(data, what)
    if manifest.is_list(parsed):
        chosen, platform = manifest.choose(parsed, want, what)
        return chosen.hex, platform
    return blob.hex, want


def _no_such(what: str, names: Sequence[str], *, count: int) -> ImageError:
    shown = ", ".join(name for name in names if name)[:400] or "no names"
    problem = f"{what} leads to none of its {count} images, which have {shown}"
    return ImageError(problem, hint="put one of these names after the path and a colon")


# -- docker save archives


def _saved(reference: Reference, what: str) -> str:
    data = _read(reference, "manifest.json", MAX_MANIFEST)
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what}: manifest.json is not JSON: {error}") from error
    entries = entries if isinstance(entries, list) else []
    matching = entries if len(entries) == 1 else []
    if reference.tag.startswith("@"):
        matching = entries[int(reference.tag[1:]) :][:1]
    elif reference.tag:
        matching = [entry for entry in entries if familiar(reference.tag) in _tags(entry)]
    if not matching:
        names = sorted({name for entry in entries for name in _tags(entry)})
        raise _no_such(what, names, count=len(entries))
    name = matching[0].get("Config") if isinstance(matching[0], Mapping) else None
    if not isinstance(name, str) or not name:
        raise ImageError(f"{what}: manifest.json names no config", hint="save the image again")
    return manifest.digest(_read(reference, name, MAX_CONFIG)).partition(":")[2]


def _tags(entry: Any) -> List[str]:
    tags = entry.get("RepoTags") if isinstance(entry, Mapping) else None
    tags = tags if isinstance(tags, list) else []
    return [familiar(name) for name in tags if isinstance(name, str)]


# -- files


def _read(reference: Reference, name: str, limit: int) -> bytes:
    if reference.transport == OCI:
        with _opened(f"{reference.name}/{name}") as handle:
            data = handle.read(limit + 1)
    else:
        data = _read_member(reference.name, name, limit)
    if len(data) > limit:
        raise ImageError(f"{name} in {reference} has more than {limit} bytes")
    return data


def _read_member(path: str, name: str, limit: int) -> bytes:
    with _opened(path) as handle:
        magic = handle.read(4)
        handle.seek(0)
        for start, kind in _COMPRESSED.items():
            if magic.startswith(start):
                hint = "decompress it on the host"
                raise ArchiveError(f"it is compressed with {kind}", hint=hint)
        archive = _Seeking(handle)
        for number, member in enumerate(archive):
            if member.kind == FILE and member.name.removeprefix(b"./") == name.encode():
                if member.size > limit:
                    raise ArchiveError(f"{name} in it has more than {limit} bytes")
                return b"".join(archive.data())
            if number > _MAX_MEMBERS:
                break
    hint = "make it with docker save, podman save or skopeo copy"
    raise ArchiveError(f"it has no file {name}", hint=hint)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(fd, "rb") as handle:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveError(f"{path} is not a regular file")
        yield handle


class _Seeking(TarStream):
    """A reader that seeks past the data of members."""

    def __init__(self, handle: IO[bytes]) -> None:
        super().__init__(cast(Stream, handle))
        self._handle = handle

    def _next(self) -> Member | None:
        self._handle.seek(self._left, os.SEEK_CUR)
        self._left = 0
        return super()._next()
