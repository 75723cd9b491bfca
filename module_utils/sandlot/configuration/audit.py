# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Looks for contents that are lost, that memory lacks, or that others could read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Iterable, Iterator, List, Tuple

from ..sandbox import runtime
from ..sandbox.record import Record
from ..site import SandboxPaths, Site
from . import contents, has_contents, is_placed, memory, missing, rest

_Expected = Tuple[str, int, int, int]


@dataclass
class Audit:
    """``lost`` contents can't be had any more; the values of sandboxes ``without`` memory can."""

    lost: List[str] = field(default_factory=list)
    without: List[str] = field(default_factory=list)
    wrong: List[str] = field(default_factory=list)
    """Paths with another owner or mode than they were given."""
    encrypted: int = 0
    plain: int = 0


def audit(site: Site, records: Iterable[Record]) -> Audit:
    state = Audit()
    for record in records:
        if not has_contents(record):
            continue
        sandbox = site.sandbox(record.name)
        state.lost += [f"{record.name}: {what}" for what in missing(site, record)]
        if runtime.running(sandbox) and not is_placed(site, record):
            state.without.append(record.name)
        state.wrong += _wrong(_expected(site, sandbox, record))
        stored = rest.names(sandbox.stored_secrets)
        encrypted = sum(name.endswith(rest.ENCRYPTED) for name in stored)
        state.encrypted += encrypted
        state.plain += len(stored) - encrypted
    return state


def _expected(site: Site, sandbox: SandboxPaths, record: Record) -> Iterator[_Expected]:
    """Yield path, owner, group and mode."""
    secrets = sandbox.stored_secrets
    for directory in (site.secrets, sandbox.files, secrets, sandbox.memory):
        yield directory, 0, 0, 0o700
    for name in rest.names(secrets):
        yield f"{secrets}/{name}", 0, 0, 0o600
    for entry in contents.files(record):
        yield rest.file_path(sandbox, entry), entry.uid, entry.gid, entry.mode
    for entry in contents.secrets(record):
        yield memory.content_path(sandbox, entry), entry.uid, entry.gid, entry.mode
    for digest in contents.variables(record).values():
        yield sandbox.secret_variable(digest), 0, 0, 0o600


def _wrong(expected: Iterable[_Expected]) -> Iterator[str]:
    for path, uid, gid, mode in expected:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (uid, gid, mode):
            yield path
