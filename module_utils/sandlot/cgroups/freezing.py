# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Freezes sandboxes for the moment that a copy takes, and thaws them whatever happens.

A guard, a process of its own, thaws them when this process is killed. A file tells the next run
what is frozen, in case both are killed; a boot leaves nothing frozen.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Iterator, List, Sequence, Tuple

from .. import store
from ..errors import HostError
from ..kernel import files
from ..site import Site
from .layout import Layout, detect

SECONDS = 10.0
_POLL_SECONDS = 0.001
_UNIFIED, _VERSION_1 = "cgroup.freeze", "freezer.state"
# The words that freeze and thaw.
_WORDS = {_UNIFIED: ("1", "0"), _VERSION_1: ("FROZEN", "THAWED")}


@contextlib.contextmanager
def frozen(site: Site, names: Sequence[str], layout: Layout | None = None) -> Iterator[None]:
    """Freeze sandboxes for the block; the caller holds the lock.

    One that somebody else has frozen stays as it is.
    """
    switches = [path for path in _switches(site, names, layout or detect()) if not _is_on(path)]
    if not switches:
        yield
        return
    os.makedirs(site.run, mode=0o755, exist_ok=True)
    store.write(site.frozen, {"boot_id": store.boot_id(), "files": switches}, durable=False)
    guard = _Guard(switches)
    try:
        _freeze(switches)
        yield
    finally:
        _thaw(switches)
        guard.end()
        store.remove(site.frozen)


def thaw_left(site: Site) -> None:
    """Thaw what a killed run left frozen; the caller holds the lock."""
    left = store.read(site.frozen, hint=f"remove {site.frozen}")
    if left is None:
        return
    if left.get("boot_id") == store.boot_id():
        _thaw([str(path) for path in left.get("files", ())])
    store.remove(site.frozen)


def _switches(site: Site, names: Sequence[str], layout: Layout) -> List[str]:
    """The file of each sandbox that freezes it."""
    paths = []
    for name in names:
        for hierarchy in layout.hierarchies:
            file = _UNIFIED if hierarchy.unified else _VERSION_1
            path = f"{hierarchy.sandbox(site, name)}/{file}"
            if (hierarchy.unified or "freezer" in hierarchy.controllers) and os.path.exists(path):
                paths.append(path)
                break
        else:
            raise HostError(
                f"sandbox {name} can't be frozen: the host has no freezer",
                hint="stop the sandbox first (sandlot stop), or mount the freezer controller",
            )
    return paths


def _is_on(path: str) -> bool:
    return files.read_value(path) not in (_words(path)[1], "FREEZING", None)


def _words(path: str) -> Tuple[str, str]:
    return _WORDS[os.path.basename(path)]


def _freeze(switches: Sequence[str]) -> None:
    deadline = time.monotonic() + SECONDS
    for path in switches:
        files.write_value(path, _words(path)[0])
    for path in switches:
        if not _await(path, deadline):
            raise HostError(
                f"{os.path.dirname(path)} does not freeze within {SECONDS:.0f} seconds",
                hint="a process in it waits in the kernel for a disk or a file server: see"
                " /proc/PID/stack of its processes (sandlot top), and run again",
            )


def _await(path: str, deadline: float) -> bool:
    if path.endswith(_VERSION_1):
        # Version 1 has no event, and a look makes the kernel look.
        while files.read_value(path) != "FROZEN":
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True
    with open(f"{os.path.dirname(path)}/cgroup.events", encoding="ascii") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "frozen 1" not in events.read():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
            events.seek(0)
    return True


def _thaw(switches: Sequence[str]) -> None:
    """Thaw all, and only then raise what kept one from it."""
    problem: OSError | None = None
    for path in switches:
        try:
            files.write_value(path, _words(path)[1])
        except FileNotFoundError:
            continue  # its cgroup has gone, with all processes
        except OSError as error:
            problem = error
    if problem is not None:
        raise problem


class _Guard:
    """A child that thaws when its parent ends; it is out of reach of the terminal's signals."""

    def __init__(self, switches: Sequence[str]) -> None:
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.close(self._writer)
                os.setsid()
                os.read(reader, 1)
                _thaw(switches)
                status = 0
            finally:
                os._exit(status)
        os.close(reader)

    def end(self) -> None:
        os.close(self._writer)
        os.waitpid(self._pid, 0)
