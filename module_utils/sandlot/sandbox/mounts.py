# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The mounts of a sandbox as its launch file has them: the user's, and those that follow."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

from ..site import Site
from ..spec import Mount, Tmpfs, mounts
from ..spec.values import PRIVATE, SECRETS
from .mount_state import FILE, SECRET
from .record import Record

Json = Dict[str, Any]

# The key of the launch file.
KEY = "mounts"
_FLAGS = ("read_only", "no_exec", "no_copy", "idmap")


def of(site: Site, record: Record) -> List[Json]:
    """All mounts of a sandbox, in an order in which none hides an earlier one."""
    entries = [flattened(site, mount) for mount in (*mounts.of(record.spec), *of_image(record))]
    entries += [*_files(site, record), *_secrets(site, record)]
    return sorted(entries, key=lambda entry: mounts.depth(entry["target"]))


def _files(site: Site, record: Record) -> Iterator[Json]:
    for entry in record.spec.files:
        uid, gid = record.host_owner(entry)
        path = site.sandbox(record.name).file(entry.content.digest, uid, gid, entry.mode)
        yield {"type": FILE, "target": entry.target, "path": path, "read_only": True}


def _secrets(site: Site, record: Record) -> Iterator[Json]:
    """Yield one directory for those that share it, so that one is changed by a rename."""
    sandbox, flags = site.sandbox(record.name), {"read_only": True, "no_exec": True}
    if any(entry.shared_name for entry in record.spec.secrets):
        yield {"type": SECRET, "target": SECRETS, "path": sandbox.named_secrets, **flags}
    for entry in record.spec.secrets:
        if not entry.shared_name:
            uid, gid = record.host_owner(entry)
            path = sandbox.secret(entry.content.digest, uid, gid, entry.mode)
            yield {"type": SECRET, "target": entry.target, "path": path, **flags}


def of_image(record: Record) -> List[Mount]:
    """The volumes for VOLUMEs of the image, but where the user mounts something, or around it."""
    taken = [mount.target for mount in mounts.of(record.spec)]
    taken += [entry.path for entry in record.spec.tmpfs]
    return [
        Mount(mounts.VOLUME, target, name)
        for target, name in record.volumes.items()
        if not any(target == path or target.startswith(f"{path}/") for path in taken)
    ]


def volumes(record: Record) -> Dict[str, str]:
    """The volumes that a sandbox has, by target."""
    entries = (*mounts.of(record.spec), *of_image(record))
    return {mount.target: mount.source for mount in entries if mount.type == mounts.VOLUME}


def volume_names(record: Record) -> List[str]:
    return sorted({*volumes(record).values()})


def image_targets(record: Record) -> List[str]:
    """The VOLUMEs of the image that can be volumes; the kernel's own trees are no place for one."""
    places = ["/" + path.strip("/") for path in record.image.config.get("volumes", ())]
    return [path for path in places if path.split("/")[1] not in ("", "proc", "sys", "dev")]


def flattened(site: Site, mount: Mount) -> Json:
    """A mount with its paths on the host; without what is at its default."""
    entry: Json = {"type": mount.type, "target": mount.target}
    if mount.tmpfs:
        return {**entry, "options": tmpfs_words(mount.tmpfs)}
    entry["source"] = mount.source
    entry["path"] = mount.source if mount.type == mounts.BIND else site.volume(mount.source).data
    entry.update({name: True for name in _FLAGS if getattr(mount, name)})
    if mount.subpath:
        entry["subpath"] = mount.subpath
    if mount.propagation != PRIVATE:
        entry["propagation"] = mount.propagation
    return entry


def tmpfs_words(entry: Tmpfs) -> str:
    """The options of a tmpfs, as mount(8) has them."""
    flags = {"noexec": not entry.executable, "tmpcopyup": entry.copy_up}
    return ",".join((*entry.options, *(flag for flag, given in flags.items() if given)))
