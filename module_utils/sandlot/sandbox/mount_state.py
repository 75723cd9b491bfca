# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The mounts that a running sandbox has, against those that it should have.

A mount is known by the kernel's id of it. The kernel gives an id again once its mount is gone, so
the file system and the directory in it count as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from .. import store
from ..errors import StateError
from ..kernel import mountinfo
from ..site import SandboxPaths
from .runtime import Running

Json = Dict[str, Any]

# Types of entries whose content comes with the record.
FILE, SECRET = "file", "secret"
OF_RECORD = (FILE, SECRET)
# The kernel adds it to the root of a mount that was removed (d_path()).
DELETED = "//deleted"
# The key of an entry in mounts.json: its id, and file system and root of the mount.
_IDENTITY = "mounted"


@dataclass(frozen=True)
class SandboxMount:
    """A mount of a running sandbox by its entry of launch.json; a lost one has the id 0."""

    entry: Json
    id: int
    device: str = ""
    root: str = ""

    @property
    def target(self) -> str:
        return str(self.entry["target"])

    def to_json(self) -> Json:
        return {**self.entry, _IDENTITY: [self.id, self.device, self.root]}


@dataclass(frozen=True)
class Plan:
    """Mounts to remove, innermost first, and entries to mount, outermost first.

    ``lost`` are targets whose mount somebody has taken away.
    """

    remove: Sequence[SandboxMount] = ()
    add: Sequence[Json] = ()
    keep: Sequence[SandboxMount] = ()
    lost: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.remove or self.add)


def observe(sandbox: SandboxPaths, init: Running) -> Tuple[SandboxMount, ...]:
    """The noted mounts of a sandbox; () without a file, and without a further look."""
    try:
        data = store.read(sandbox.mounts)
    except StateError:
        # Nothing is known of the mounts then: the sandbox gets them once more.
        return ()
    if data is None:
        return ()
    table = mountinfo.by_id(init.pid)
    noted = [_known(entry, table) for entry in data["mounts"]]
    known = {each.id for each in noted}
    pending = [each for each in _pending(sandbox, table) if each.id not in known]
    return (*noted, *pending)


def _known(noted: Mapping[str, Any], table: Mapping[int, mountinfo.Row]) -> SandboxMount:
    entry = {key: value for key, value in noted.items() if key != _IDENTITY}
    number, device, root = noted.get(_IDENTITY, (0, "", ""))
    row = table.get(number)
    # A mount of secrets that the host has removed is still there, and has to go.
    roots = (root, f"{root}{DELETED}") if entry.get("type") == SECRET else (root,)
    # At a start, only the id is known.
    if row is None or (device and (row.device != device or row.root not in roots)):
        return SandboxMount(entry, 0)
    return SandboxMount(entry, row.id, row.device, row.root)


def _pending(sandbox: SandboxPaths, table: Mapping[int, mountinfo.Row]) -> List[SandboxMount]:
    """Mounts that a killed run was about to attach, as far as it did."""
    try:
        entries = json.loads(store.read_bytes(sandbox.pending_mounts) or b"[]")
    except ValueError:
        return []
    return [each for each in (_known(entry, table) for entry in entries) if each.id]


def pending(entries: Iterable[Tuple[Mapping[str, Any], int]]) -> bytes:
    """The content of the file that is written before mounts are attached."""
    return json.dumps(
        [SandboxMount(dict(entry), number).to_json() for entry, number in entries]
    ).encode()


def begin(sandbox: SandboxPaths, present: Iterable[SandboxMount]) -> None:
    """Write the file before changes, with what an earlier run left pending."""
    entries = [each.to_json() for each in present if each.id]
    store.write(sandbox.mounts, {"mounts": entries}, durable=False)


def note(sandbox: SandboxPaths, present: Iterable[SandboxMount]) -> None:
    """Write the file; a sandbox without mounts has none."""
    entries = [each.to_json() for each in present if each.id]
    if entries:
        store.write(sandbox.mounts, {"mounts": entries}, durable=False)
    else:
        store.remove(sandbox.mounts)
    store.unlink(sandbox.pending_mounts)


def plan(present: Sequence[SandboxMount], desired: Iterable[Mapping[str, Any]]) -> Plan:
    """The way from the mounts of a sandbox to the desired ones.

    A mount that another one would hide, or take away with it, is mounted again.
    """
    wanted = {str(entry["target"]): dict(entry) for entry in desired}
    keep: Dict[str, SandboxMount] = {}
    for each in present:
        if each.id and wanted.get(each.target) == each.entry:
            keep.setdefault(each.target, each)
    kept = {each.id for each in keep.values()}
    remove = [each for each in present if each.id and each.id not in kept]
    touched = {each.target for each in remove} | (set(wanted) - set(keep))
    for target in list(keep):
        if any(target.startswith(f"{other}/") for other in touched):
            remove.append(keep.pop(target))
    lost = {each.target for each in present if not each.id}
    return Plan(
        remove=sorted(remove, key=lambda each: _depth(each.target), reverse=True),
        add=sorted(
            (entry for target, entry in wanted.items() if target not in keep),
            key=lambda entry: _depth(entry["target"]),
        ),
        keep=list(keep.values()),
        lost=frozenset(lost & set(wanted)),
    )


def _depth(target: str) -> Tuple[int, str]:
    return target.count("/"), target


def obstacle(change: Plan, launch: Mapping[str, Any]) -> str:
    """The reason why only a restart makes the change, "" when it can be made live."""
    if not change:
        return ""
    fixed = {**dict.fromkeys(launch["files"], "a file"), "/etc/machine-id": "a file"}
    usual = ("/tmp", "/run", "/var/tmp") if launch["read_only"] else ("/tmp",)
    fixed.update(dict.fromkeys((*usual, *launch["tmpfs"]), "a file system in memory"))
    touched = [*(each.target for each in change.remove), *(each["target"] for each in change.add)]
    for target in touched:
        for place, what in fixed.items():
            if place == target or place.startswith(f"{target}/"):
                return f"{place} is {what} that sandlot mounts at a start"
    for entry in change.add:
        if "tmpcopyup" in entry.get("options", "").split(","):
            return f"{entry['target']} takes over files of the image at a start"
    return ""


def is_of_record(entry: Mapping[str, Any]) -> bool:
    """Whether a mount shows content of the options files or secrets."""
    return entry.get("type") in OF_RECORD


def withdrawn(old: Mapping[str, Any], new: Mapping[str, Any]) -> List[str]:
    """Targets of files and secrets that a launch file has no more, or has other mounts at."""
    wanted = {entry["target"] for entry in new.get("mounts", ()) if is_of_record(entry)}
    known = (entry for entry in old.get("mounts", ()) if is_of_record(entry))
    return [entry["target"] for entry in known if entry["target"] not in wanted]


def described(entry: Mapping[str, Any]) -> str:
    """A mount for a line."""
    source = entry.get("source", "a tmpfs")
    return f"{source} at {entry['target']}"
