# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Imports a snapshot from an archive of another host: nothing in it is trusted.

It is unpacked beside the snapshots without the lock, as a pipe may take long, and then moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
from typing import Any, Dict, Iterator, List, Mapping

from .. import store as state
from ..errors import SandlotError, SpecError, StateError
from ..idmap import IdRange
from ..images.tarstream import ArchiveError
from ..images.unpack import Bounds
from ..kernel import files, flock
from ..kernel.trees import remove_tree, sync
from ..sandbox import record as records
from ..sandbox.record import PRESENT, STARTED, STOPPED, Record
from ..site import Site
from ..spec.mounts import volume_name
from ..spec.names import absolute_path, image_name
from . import model, store
from .archive import FORMAT, LAYER, MANIFEST, VOLUMES
from .contents import look
from .model import Snapshot
from .unpacking import MAX_MANIFEST, convert, unpack

IMPORTED = "imported"
_DIGEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,255}")
_END = 253402300800
_ARRIVING = ".import-"
_AGAIN = "export it again, with sandlot snapshots export"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Options that give no right, and name nothing of the host or of other sandboxes. An archive does
# not decide about the others; who clones the snapshot does.
_OPTIONS = frozenset(
    """
    image command entrypoint working_dir user umask labels tmpfs read_only volumes mounts
    memory memory_reservation memory_swap cpus cpu_shares pids_limit restart_policy restart_retries
    healthcheck stop_signal stop_timeout log_max_size
    """.split()
)


@contextlib.contextmanager
def arriving(site: Site, fd: int) -> Iterator[str]:
    """Unpack the stream ``fd``; the directory with what it holds, which goes after the block."""
    os.makedirs(site.snapshots, mode=0o700, exist_ok=True)
    _sweep(site)
    directory = f"{site.snapshots}/{_ARRIVING}{os.getpid()}"
    os.mkdir(directory, 0o700)
    held = os.open(directory, _DIRECTORY)
    try:
        # Tells others that it is in use.
        flock.take(held)
        try:
            unpack(fd, directory, _bounds(site))
        except ArchiveError as error:
            hint = error.hint
            if "max_" in hint:
                hint = f"make room in {site.snapshots}: an import leaves 10 % of the space free"
            message = f"the snapshot can't be imported: {error.message}"
            raise SandlotError(message, hint=hint) from error
        yield directory
    finally:
        os.close(held)
        remove_tree(directory)
        with contextlib.suppress(OSError):
            os.rmdir(site.snapshots)


def _sweep(site: Site) -> None:
    """Remove what killed imports left."""
    for name in files.directories(site.snapshots):
        if name.startswith(_ARRIVING):
            path = f"{site.snapshots}/{name}"
            fd = os.open(path, _DIRECTORY)
            try:
                if flock.try_take(fd):
                    remove_tree(path)
            finally:
                os.close(fd)


def _bounds(site: Site) -> Bounds:
    room = os.statvfs(site.snapshots)
    free = (room.f_bavail - room.f_blocks // 10) * room.f_frsize
    inodes = room.f_favail - room.f_files // 10 if room.f_files else 10**8
    return Bounds(max(free, 0), max(inodes, 0))


def described(directory: str, sandbox: str, identifier: str) -> Snapshot:
    """The snapshot that was unpacked; the names are given, or those of the manifest."""
    about = _manifest(directory)
    try:
        if about["format"] != FORMAT:
            raise SandlotError(
                f"the archive has format {about['format']!r}, this sandlot knows {FORMAT}",
                hint="upgrade sandlot on this host to the version that wrote it",
            )
        name, label = sandbox or str(about["sandbox"]), identifier or str(about["id"])
        created = _time(about["created"])
        record = _record(about, name) if "spec" in about else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"the archive's manifest has a missing or wrong field ({error!r})"
        raise SandlotError(problem, hint=_AGAIN) from error
    except (StateError, SpecError) as error:
        raise SandlotError(f"the archive's manifest: {error.message}", hint=_AGAIN) from error
    for option, text in (("sandbox", name), ("name", label)):
        if not model.is_id(text):
            raise SpecError(option, text, "of the archive is no name", hint=f"give {option}")
    volumes = files.directories(f"{directory}/{VOLUMES}")
    for volume in volumes:
        if not model.is_id(volume):
            raise SandlotError(f"the archive has a volume of the name {volume!r}", hint=_AGAIN)
    held = look(f"{directory}/{LAYER}", {})
    return Snapshot(
        sandbox=name,
        id=label,
        created=created,
        reason=IMPORTED,
        ids=IdRange(0),
        record=record,
        size=held.size,
        files=held.files,
        more=held.more,
        volumes=tuple(volumes),
    )


def to_bring(directory: str) -> List[str]:
    """The contents that the archive leaves out, in words for messages."""
    named = _manifest(directory).get("to_bring")
    if not isinstance(named, dict):
        return []
    return [
        f"{option} {', '.join(map(_quoted, names))}"
        for option in ("files", "secrets", "env")
        for names in [named.get(option)]
        if isinstance(names, list) and names
    ]


def _quoted(name: object) -> str:
    """A name of an archive, which may hold anything."""
    return reprlib.repr(name)


def _time(value: Any) -> float:
    """Seconds since the epoch, up to the year 9999: listings compute with them."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _END:
        raise ValueError("created is no time")
    return float(value)


def _manifest(directory: str) -> Mapping[str, Any]:
    content = state.read_bytes(f"{directory}/{MANIFEST}", hint=_AGAIN, limit=MAX_MANIFEST) or b""
    try:
        about = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise SandlotError(f"the archive's manifest is not JSON: {error}", hint=_AGAIN) from error
    if not isinstance(about, dict):
        raise SandlotError("the archive's manifest is not an object", hint=_AGAIN)
    return about


def _record(about: Mapping[str, Any], name: str) -> Record:
    """The record of a sandbox that this host need not have; SpecError for a bad option."""
    spec = {key: value for key, value in about["spec"].items() if key in _OPTIONS}
    spec["volumes"] = [text for text in spec.get("volumes") or () if not text.startswith("/")]
    spec["mounts"] = [item for item in spec.get("mounts") or () if item["type"] != "bind"]
    image = about["image"]
    digest = str(image["digest"])
    if not _DIGEST.fullmatch(digest):
        raise SpecError("image.digest", digest, "is no digest", hint=_AGAIN)
    volumes = about.get("image_volumes", {})
    data: Dict[str, Any] = {
        "name": name,
        "phase": PRESENT,
        "wanted": STOPPED if about.get("wanted") == STOPPED else STARTED,
        "spec": {**spec, "name": name},
        "ids": {"uid": 0, "gid": 0, "size": 65536},
        "image": {
            "name": image_name("image.name", image["name"]),
            "digest": digest,
            "layers": [],
        },
        "interfaces": [],
        "volumes": {
            absolute_path("image_volumes", target): volume_name("image_volumes", volume)
            for target, volume in volumes.items()
        },
    }
    return records.from_json(data, name, "the record in the archive")


def keep(site: Site, directory: str, snapshot: Snapshot) -> None:
    """Make a snapshot of what was unpacked; the caller holds the lock."""
    layer = os.open(f"{directory}/{LAYER}", _DIRECTORY)
    try:
        convert(layer)
    finally:
        os.close(layer)
    sync(directory)
    store.abandon(site, snapshot.sandbox)
    staged = store.stage(site, snapshot)
    if snapshot.volumes:
        os.mkdir(staged.volumes, 0o700)
    for name in snapshot.volumes:
        os.rename(f"{directory}/{VOLUMES}/{name}", f"{staged.volumes}/{name}")
    os.mkdir(f"{directory}/whole", 0o700)
    os.rename(f"{directory}/{LAYER}", f"{directory}/whole/upper")
    # The layer comes last, as a snapshot that has it is complete.
    os.rename(f"{directory}/whole", staged.layer)
    store.finish(site, snapshot)
