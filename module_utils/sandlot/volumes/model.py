# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes: data with a life of its own, mounted into one or more sandboxes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Tuple

from ..errors import StateError

Json = Dict[str, Any]
Pairs = Tuple[Tuple[str, str], ...]

PRESENT, ABSENT = "present", "absent"
_MAX_NAME = 128
_HASH = 10


@dataclass(frozen=True)
class VolumeSpec:
    """A volume as a user declares it."""

    name: str
    state: str = PRESENT
    size: int | None = None
    labels: Pairs = ()
    force: bool = False


@dataclass(frozen=True)
class Volume:
    """A volume of this host, as its volume.json has it.

    A ``populated`` volume takes over no content.
    While ``copying``, it holds half a copy. A copy that a rebuild of the sandbox ``trial`` made of
    the old layer counts once the rebuild is committed. ``sandbox`` and ``target`` are those of
    a VOLUME of an image.
    """

    name: str
    created: float
    size: int | None = None
    labels: Pairs = ()
    populated: bool = False
    copying: bool = False
    trial: str = ""
    sandbox: str = ""
    target: str = ""

    def declared(self, spec: VolumeSpec) -> Volume:
        """The volume with the settings of ``spec``."""
        return replace(self, size=spec.size, labels=spec.labels)

    def to_json(self) -> Json:
        """The content of volume.json: without values that are not set."""
        kept = {key: value for key, value in vars(self).items() if value or key == "populated"}
        return {**kept, "labels": dict(self.labels)} if self.labels else kept

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Volume:
        """Read the content of volume.json; StateError when it is damaged."""
        known = {key: value for key, value in data.items() if key != "schema"}
        try:
            known["labels"] = tuple(sorted(dict(known.get("labels", {})).items()))
            volume = cls(**known)
            texts = (volume.name, volume.trial, volume.sandbox, volume.target)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("name, trial, sandbox and target have to be text")
            float(volume.created)
        except (TypeError, ValueError) as error:
            raise StateError(f"it has a missing or wrong field ({error})") from error
        return volume


def image_volume(sandbox: str, target: str) -> str:
    """The name of the volume that a sandbox has for a VOLUME of its image.

    A hash keeps apart what differs in other characters only. Names of sandboxes may have dots, so
    no target keeps one.
    """
    parts = target.strip("/").replace("/", "-")
    plain = re.sub(r"[^a-zA-Z0-9_.-]", "_", parts)
    name = f"{sandbox}.{plain}"
    if plain == parts and not {*target} & {*"-."} and len(name) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(f"{sandbox}:{target}".encode()).hexdigest()[:_HASH]
    return f"{name[: _MAX_NAME - _HASH - 1]}-{digest}"
