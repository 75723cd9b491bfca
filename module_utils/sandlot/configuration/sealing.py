# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Gives the values of a spec the digests by which records know them."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple, TypeVar

from ..mask import Mask
from ..spec import Spec
from ..spec.configuration import placed
from ..spec.values import Placed, Sealed

Entry = TypeVar("Entry", bound=Placed)


def values(spec: Spec) -> Tuple[Sealed, ...]:
    """All values of a spec that records know by digests."""
    of_env = (item for dummy, item in spec.env if isinstance(item, Sealed))
    return (*(entry.content for dummy, entry in placed(spec)), *of_env)


def sealed(spec: Spec, mask: Mask) -> Spec:
    """The spec with the digest of each value that is there; digests of a record stay.

    Equal values of two sandboxes, or of two entries of one, have different digests.
    """
    files = _entries(spec.name, "file", spec.files, mask)
    secrets = _entries(spec.name, "secret", spec.secrets, mask)
    env = tuple(
        (key, _sealed(item, mask, spec.name, "env", key) if isinstance(item, Sealed) else item)
        for key, item in spec.env
    )
    return replace(spec, files=files, secrets=secrets, env=env)


def _entries(name: str, kind: str, entries: Tuple[Entry, ...], mask: Mask) -> Tuple[Entry, ...]:
    return tuple(
        replace(entry, content=_sealed(entry.content, mask, name, kind, entry.key))
        for entry in entries
    )


def _sealed(content: Sealed, mask: Mask, *owner: str) -> Sealed:
    if content.value is None:
        return content
    parts = (*(part.encode() for part in owner), content.value)
    return replace(content, digest=mask.digest(*parts))
