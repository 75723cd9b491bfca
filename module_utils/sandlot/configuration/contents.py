# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The contents that a record names: files, secrets, and variables with secret values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List

from ..sandbox.record import Record
from ..site import content_id
from ..spec import Spec
from ..spec.values import Placed, Sealed, Secret
from . import sealing


@dataclass(frozen=True)
class Content:
    """A content with its owner on the host; ``what`` names it in messages.

    ``shared_name`` is the name of a secret in /run/secrets of the sandbox.
    """

    what: str
    digest: str
    uid: int
    gid: int
    mode: int
    shared_name: str = ""

    @property
    def id(self) -> str:
        return content_id(self.digest, self.uid, self.gid, self.mode)


def files(record: Record) -> List[Content]:
    return [_content(record, f"file {entry.target}", entry) for entry in record.spec.files]


def secrets(record: Record) -> List[Content]:
    return [_content(record, f"secret {entry.name}", entry) for entry in record.spec.secrets]


def _content(record: Record, what: str, entry: Placed) -> Content:
    shared = entry.shared_name if isinstance(entry, Secret) else ""
    return Content(what, entry.content.digest, *record.host_owner(entry), entry.mode, shared)


def variables(record: Record) -> Dict[str, str]:
    """The digests of secret variables, by what messages call them."""
    return {
        f"env {name}": value.digest for name, value in record.spec.env if isinstance(value, Sealed)
    }


def has_secrets(record: Record) -> bool:
    return bool(record.spec.secrets or variables(record))


def has_contents(record: Record) -> bool:
    return bool(record.spec.files) or has_secrets(record)


def given(spec: Spec) -> Dict[str, bytes]:
    """The values that a spec of this run brings, by their digests."""
    known = sealing.values(spec)
    return {sealed.digest: sealed.value for sealed in known if sealed.value is not None}
