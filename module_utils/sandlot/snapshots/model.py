# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A snapshot: what it holds, why it was made, and how long it stays."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Collection, Dict, Mapping, Optional, Tuple

from ..errors import StateError
from ..idmap import IdRange
from ..sandbox import record as records
from ..sandbox.record import Record

Json = Dict[str, Any]

# Reasons; users and other parts of the engine name more.
REBUILD = "rebuild"
RECREATE = "recreate"
IMAGE = "image"
PURGE = "purge"
REMOVED = "removed"
RESTORE = "restore"
FAILED = "failed"
ASKED = "asked"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Snapshot:
    """A kept layer of ``sandbox``, made at the time ``created`` (seconds since the epoch).

    An ``automatic`` one was set aside by a run; ``keep`` and ``max_age`` (seconds, 0: none) are the
    options of its sandbox then. ``record`` is that of the sandbox, None for one that was unusable.
    Files of the layer have owners in ``ids``. ``size`` (bytes on disk) and ``files`` are less than
    the truth when there are ``more``. ``volumes`` are the names of volumes that it has copies of.
    """

    sandbox: str
    id: str
    created: float
    reason: str
    ids: IdRange
    record: Optional[Record] = None
    automatic: bool = False
    keep: int = 0
    max_age: int = 0
    size: int = 0
    files: int = 0
    more: bool = False
    volumes: Tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.sandbox}/{self.id}"

    def to_json(self) -> Json:
        return {
            **vars(self),
            "record": self.record.to_json() if self.record else None,
            "ids": {"uid": self.ids.start, "gid": self.ids.start, "size": self.ids.size},
            "volumes": list(self.volumes),
        }

    def facts(self) -> Json:
        """The snapshot as results show it."""
        shown = {key: value for key, value in self.to_json().items() if key != "record"}
        return {**shown, "image": self.record.image.name if self.record else None}


def from_json(data: Mapping[str, Any], sandbox: str, identifier: str, path: str) -> Snapshot:
    """The snapshot that ``path`` describes; StateError when it is unusable."""
    hint = f"restore it from a backup, or remove the snapshot: {path.rpartition('/')[0]}"
    try:
        ids, stored = data["ids"], data["record"]
        snapshot = Snapshot(
            sandbox=str(data["sandbox"]),
            id=str(data["id"]),
            created=float(data["created"]),
            reason=str(data["reason"]),
            ids=IdRange(int(ids["uid"]), int(ids["size"])),
            record=stored and records.from_json(stored, sandbox, path),
            automatic=bool(data["automatic"]),
            keep=int(data["keep"]),
            max_age=int(data["max_age"]),
            size=int(data["size"]),
            files=int(data["files"]),
            more=bool(data["more"]),
            volumes=tuple(str(name) for name in data["volumes"]),
        )
    except StateError as error:
        raise StateError(error.message, hint=hint) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{path} has a missing or wrong field ({error!r})"
        raise StateError(problem, hint=hint) from error
    if (snapshot.sandbox, snapshot.id) != (sandbox, identifier):
        raise StateError(f"{path} describes {snapshot.name}", hint=hint)
    return snapshot


def is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text))


def id_at(created: float, taken: Collection[str]) -> str:
    """The identifier of an automatic snapshot: its time, and a number when that is taken."""
    text = time.strftime(_TIME, time.gmtime(created))
    identifier, number = text, 1
    while identifier in taken:
        number += 1
        identifier = f"{text}-{number}"
    return identifier
