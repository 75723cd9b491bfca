# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Keeps a copy of the host's Python that runs in any root at a fixed path.

Each Python of the host that runs sandlot has one, in a directory with what it was made from. A
look at the dates and sizes of these files tells whether it is still theirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any, Iterator, Mapping

from .. import store
from ..errors import SandlotError
from ..kernel import flock
from ..kernel.files import directories
from ..site import Site
from .python_place import stamp

WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.05
# A tree with an older number is made again.
_FORMAT = 2
_LOCK, _SOURCES, _ROOT, _NEW = "lock", "sources.json", "root", ".new"


@contextlib.contextmanager
def tree(site: Site) -> Iterator[str]:
    """The directory of the tree, which stays for the time of the block; made if it is missing."""
    program = os.path.realpath(sys.executable)
    _make_directory(site)
    fd = os.open(f"{site.python}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(fd, shared=True)
        directory = _find(site, program)
        if not directory:
            _take(fd, shared=False)
            directory = _find(site, program) or _make(site, program)
            # The files of the host match it, so nobody removes it in between.
            _take(fd, shared=True)
        yield directory
    finally:
        os.close(fd)


def shown_by(site: Site, sandbox: str) -> str:
    """The name of the tree that a sandbox shows, "" for none."""
    noted = store.read_bytes(site.sandbox(sandbox).python)
    return str(json.loads(noted)["tree"]) if noted else ""


def name_of(directory: str) -> str:
    return os.path.basename(os.path.dirname(directory))


def _make_directory(site: Site) -> None:
    for directory in (site.state, site.python):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def _take(fd: int, *, shared: bool) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not flock.try_take(fd, shared=shared):
        if time.monotonic() >= end:
            problem = f"another run has copied the host's Python for {WAIT_SECONDS:.0f} seconds"
            raise SandlotError(problem, hint="let it finish, or end it; then try again")
        time.sleep(_POLL_SECONDS)


def _find(site: Site, program: str) -> str:
    """The tree of a program; "" when there is none that matches the files of the host."""
    for name in directories(site.python):
        data = store.read(f"{site.python}/{name}/{_SOURCES}") or {}
        if data.get("program") == program and _matches(data):
            return f"{site.python}/{name}/{_ROOT}"
    return ""


def _matches(data: Mapping[str, Any]) -> bool:
    if data.get("format") != _FORMAT:
        return False
    return all(stamp(path) == tuple(noted) for path, noted in data["stamps"].items())


def _make(site: Site, program: str) -> str:
    # Imported here: a command finds the tree, and has no time for what makes one.
    import hashlib

    from ..kernel.trees import remove_entry, sync
    from . import python_copy

    fresh = f"{site.python}/{_NEW}"
    remove_entry(fresh)
    os.mkdir(fresh, 0o700)
    try:
        stamps = python_copy.make(f"{fresh}/{_ROOT}")
        sources = {"program": program, "format": _FORMAT, "stamps": stamps}
        store.write(f"{fresh}/{_SOURCES}", sources, durable=False)
        sync(fresh)
        text = json.dumps(sources, sort_keys=True).encode()
        final = f"{site.python}/{hashlib.sha256(text).hexdigest()[:16]}"
        os.rename(fresh, final)
    finally:
        remove_entry(fresh)
    _sweep(site)
    return f"{final}/{_ROOT}"


def _sweep(site: Site) -> None:
    """Remove trees whose files the host has changed, but those that a sandbox still shows."""
    from ..kernel.trees import remove_tree

    shown = {shown_by(site, name) for name in directories(site.run)}
    for name in directories(site.python):
        data = store.read(f"{site.python}/{name}/{_SOURCES}")
        if (data is None or not _matches(data)) and name not in shown:
            remove_tree(f"{site.python}/{name}")
