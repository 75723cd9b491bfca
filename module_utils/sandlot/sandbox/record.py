# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""record.json: the desired sandbox, written before the first side effect."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, Collection, Dict, Mapping, Tuple

from .. import store
from ..errors import StateError
from ..idmap import IdRange
from ..network import Interface, SandboxPolicy
from ..site import Site
from ..spec import Spec, stored
from ..spec.values import Placed
from .names import recorded

Json = Dict[str, Any]

PRESENT = "present"
REBUILDING = "rebuilding"
REMOVING = "removing"
PHASES = (PRESENT, REBUILDING, REMOVING)
STARTED = "started"
STOPPED = "stopped"
# Options that the first version does not know; it can read records that do not set them.
LATER = ("depends_on", "healthcheck")


@dataclass(frozen=True)
class ImageRef:
    """The image below a sandbox's layer; fields as in images.Image."""

    name: str
    digest: str
    layers: tuple[str, ...] = ()
    host: Json = field(default_factory=dict, hash=False)
    tmpfs: str = ""
    config: Json = field(default_factory=dict, hash=False)

    def to_json(self) -> Json:
        return {**vars(self), "layers": list(self.layers)}

    @classmethod
    def from_json(cls, data: Json) -> ImageRef:
        # Records of the first version have one root in place of layers.
        layers = data["layers"] if "layers" in data else [data["root"]]
        known = {key: value for key, value in data.items() if key not in ("layers", "root")}
        return cls(**known, layers=tuple(layers))


@dataclass(frozen=True)
class Record:
    """A sandbox on its host.

    ``volumes`` maps the targets of its image's VOLUMEs to volumes, ``owners`` those of its files
    and secrets to user and group, as ids inside.
    """

    name: str
    phase: str
    wanted: str
    spec: Spec
    ids: IdRange
    image: ImageRef
    interfaces: tuple[Interface, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict, hash=False)
    owners: Mapping[str, Tuple[int, int]] = field(default_factory=dict, hash=False)

    def to_json(self) -> Json:
        spec = stored.to_json(self.spec)
        newer = {"schema": store.NEWEST, "volumes": dict(self.volumes)}
        own = newer if self.volumes else {}
        owners = {target: list(pair) for target, pair in self.owners.items()}
        return {
            **own,
            **({"owners": owners} if owners else {}),
            "name": self.name,
            "phase": self.phase,
            "wanted": self.wanted,
            "spec": {key: value for key, value in spec.items() if value or key not in LATER},
            "digest": stored.digest(self.spec),
            "ids": {"uid": self.ids.start, "gid": self.ids.start, "size": self.ids.size},
            "image": self.image.to_json(),
            "interfaces": [interface.to_json() for interface in self.interfaces],
        }

    @property
    def policy(self) -> SandboxPolicy:
        """The part of the spec that says what the sandbox may reach."""
        return SandboxPolicy(self.spec.egress, self.spec.host_access, self.spec.dns_servers)

    def host_owner(self, entry: Placed) -> Tuple[int, int]:
        """User and group of a file or secret, as ids of the host."""
        uid, gid = self.owners.get(entry.target, (0, 0))
        return self.ids.start + uid, self.ids.start + gid

    def in_phase(self, phase: str) -> Record:
        return self if self.phase == phase else replace(self, phase=phase)


@dataclass(frozen=True)
class Records:
    """All records of a host; a broken record is kept as its error and affects no other sandbox."""

    good: dict[str, Record] = field(default_factory=dict)
    broken: dict[str, StateError] = field(default_factory=dict)

    def names(self) -> set[str]:
        return {*self.good, *self.broken}


def load(site: Site, name: str) -> Record | None:
    """The record of one sandbox, None when there is none; StateError when it is unusable."""
    return _load(site.sandbox(name).record, name)


def previous(site: Site, name: str) -> Record | None:
    """The record of the version that ran before an unfinished restart; None if unusable."""
    try:
        return _load(site.sandbox(name).previous, name)
    except StateError:
        return None


def _load(path: str, name: str) -> Record | None:
    data = store.read(path)
    return None if data is None else from_json(data, name, path)


def from_json(data: Json, name: str, path: str) -> Record:
    """The record of ``name`` that ``path`` has; StateError when it is unusable."""
    try:
        ids = data["ids"]
        record = Record(
            name=data["name"],
            phase=data["phase"],
            wanted=data["wanted"],
            spec=stored.from_json(data["spec"]),
            ids=IdRange(int(ids["uid"]), int(ids["size"])),
            image=ImageRef.from_json(data["image"]),
            interfaces=tuple(
                Interface.from_json(name, interface) for interface in data["interfaces"]
            ),
            volumes={str(target): str(name) for target, name in data.get("volumes", {}).items()},
            owners={
                str(target): (int(uid), int(gid))
                for target, (uid, gid) in data.get("owners", {}).items()
            },
        )
    except StateError as error:
        hint = f"{error.hint}, or remove sandbox {name} (state: absent) first"
        raise StateError(f"{path}: {error.message}", hint=hint) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(path, name, f"has a missing or wrong field ({error!r})") from error
    if record.name != name or record.phase not in PHASES:
        raise _unusable(path, name, f"describes {record.name!r} in phase {record.phase!r}")
    return record


def _unusable(path: str, name: str, problem: str) -> StateError:
    return StateError(
        f"{path} {problem}",
        hint=f"restore it from a backup, or remove sandbox {name} (state: absent) and deploy again",
    )


def load_all(site: Site, scope: Collection[str] | None = None) -> Records:
    """The records of all sandboxes, or of those in a ``scope``."""
    records = Records()
    for name in recorded(site) if scope is None else sorted(scope):
        try:
            record = load(site, name)
        except StateError as error:
            records.broken[name] = error
            continue
        if record is not None:
            records.good[name] = record
    return records


def keep_spares(site: Site) -> None:
    """Make the spares that records of an earlier version lack."""
    for name in load_all(site).good:
        sandbox = site.sandbox(name)
        store.keep_spare(sandbox.spare, os.stat(sandbox.record, follow_symlinks=False).st_size)


def keep(site: Site, old: Record) -> None:
    """Keep the record of the version that runs; on a full disk, only this run can go back."""
    previous = site.sandbox(old.name).previous
    store.write(previous, old.to_json(), durable=False, needed=False)


def save(site: Site, record: Record, *, needed: bool = True) -> None:
    sandbox = site.sandbox(record.name)
    os.makedirs(site.sandboxes, mode=0o700, exist_ok=True)
    os.makedirs(sandbox.state, mode=0o700, exist_ok=True)
    store.write(sandbox.record, record.to_json(), spare=sandbox.spare, needed=needed)
