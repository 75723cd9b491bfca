# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compares the files and secrets that a running sandbox shows with those of its record."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Dict, Iterable, Mapping, Sequence, Tuple

from ..configuration import contents, memory
from ..sandbox import mount_state
from ..sandbox.mount_state import SandboxMount
from ..sandbox.record import Record
from ..site import Site
from ..spec.values import NONE, RELOAD, RESTART, SECRETS

ADD, REPLACE, WITHDRAW = "add", "replace", "withdraw"


@dataclass(frozen=True)
class Piece:
    """A file or secret of a sandbox; another content, owner or mode is another ``id``."""

    option: str
    title: str
    id: str = ""
    on_change: str = NONE
    signal: int = 0


@dataclass(frozen=True)
class Changed:
    """A change of what a running sandbox shows."""

    verb: str
    target: str
    piece: Piece

    @property
    def line(self) -> str:
        return f"{self.verb} {self.piece.title}"


def pieces(record: Record) -> Dict[str, Piece]:
    """The files and secrets of a record, by target."""
    spec = record.spec
    known = {
        entry.target: Piece("files", entry.target, kept.id, entry.on_change, entry.reload_signal)
        for entry, kept in zip(spec.files, contents.files(record))
    }
    for secret, kept in zip(spec.secrets, contents.secrets(record)):
        words = "secrets", f"secret {secret.name}", kept.id
        known[secret.target] = Piece(*words, secret.on_change, secret.reload_signal)
    return known


def changes(
    shown: Mapping[str, str], old: Iterable[Record | None], new: Record
) -> Tuple[Changed, ...]:
    """The way from what a sandbox shows to its record.

    ``old`` are records that tell what a withdrawn piece was; a killed run has written the new one.
    """
    known: Dict[str, Piece] = {}
    for record in old:
        known.update(pieces(record) if record else {})
    wanted = pieces(new)
    gone = sorted(target for target in shown if target not in wanted)
    withdrawn = [
        Changed(WITHDRAW, target, known.get(target, Piece(_option(target), target)))
        for target in gone
    ]
    given = [
        Changed(REPLACE if target in shown else ADD, target, piece)
        for target, piece in wanted.items()
        if shown.get(target) != piece.id
    ]
    return (*given, *withdrawn)


def _option(target: str) -> str:
    return "secrets" if target.startswith(f"{SECRETS}/") else "files"


def restarting(changed: Iterable[Changed]) -> str:
    """The reason of a restart that follows, "" for none."""
    options = {each.piece.option for each in changed if each.piece.on_change == RESTART}
    return f"{', '.join(sorted(options))} changed" if options else ""


def signals(changed: Iterable[Changed]) -> Tuple[int, ...]:
    return tuple(sorted({each.piece.signal for each in changed if each.piece.on_change == RELOAD}))


# -- what a running sandbox shows


def observe(site: Site, name: str, mounts: Sequence[SandboxMount]) -> Dict[str, str]:
    """The id of the content at each target."""
    sandbox = site.sandbox(name)
    shown: Dict[str, str] = {}
    for each in mounts:
        if not each.id or not mount_state.is_of_record(each.entry):
            continue
        if each.target == SECRETS:
            names = memory.shared(sandbox) if each.entry["path"] else {}
            shown.update((f"{SECRETS}/{name}", known) for name, known in names.items())
        else:
            shown[each.target] = os.path.basename(each.entry["path"])
    return shown


def checked(site: Site, mounts: Sequence[SandboxMount]) -> Tuple[SandboxMount, ...]:
    """The mounts, where one of secrets whose directory or file system is gone has no path.

    Somebody has removed it on the host, so it does not change with the one that is there now.
    """
    return tuple(
        replace(each, entry={**each.entry, "path": ""}) if _is_lost(site, each) else each
        for each in mounts
    )


def _is_lost(site: Site, each: SandboxMount) -> bool:
    is_shared = each.entry.get("type") == mount_state.SECRET and each.target == SECRETS
    is_gone = each.root.endswith(mount_state.DELETED) or each.device != memory.device(site)
    return bool(is_shared and each.id and is_gone)
