# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes a sandbox's cgroups, with all processes in them.

The code looks at nothing but our own cgroup. It kills leftover processes, also frozen ones, and
removes cgroups that a tenant made inside first. If somebody else put a process there, an error
names the process and nothing is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time

from ..errors import ForeignError, SandlotError
from ..kernel import files, processes
from ..plan import Operation
from ..site import Site
from . import parents
from .layout import Hierarchy, Layout
from .state import CgroupState

_DEADLINE_SECONDS = 10.0
_POLL_SECONDS = 0.005


def remove_operations(site: Site, name: str, state: CgroupState) -> list[Operation]:
    if not state.sandboxes[name].existing:
        return []
    return [Operation(name, "cgroup: remove", lambda: remove(site, name, state.layout))]


def remove(site: Site, name: str, layout: Layout) -> None:
    memory = layout.having("memory")
    protected = memory and files.read_value(f"{memory.sandbox(site, name)}/memory.low")
    # The unified hierarchy first: it kills all processes at once, and has an event for the end.
    hierarchies = sorted(layout.hierarchies, key=lambda hierarchy: not hierarchy.unified)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        hierarchies = [
            hierarchy
            for hierarchy in hierarchies
            if not _remove_tree(hierarchy.sandbox(site, name))
        ]
        if not hierarchies:
            break
        directories = [hierarchy.sandbox(site, name) for hierarchy in hierarchies]
        _refuse_foreign(site, directories)
        if time.monotonic() >= deadline:
            pids = sorted({pid for directory in directories for pid in _processes(directory)})
            listed = ", ".join(map(str, pids)) or "none listed"
            raise SandlotError(
                f"{directories[0]} is still in use {_DEADLINE_SECONDS:.0f} seconds after SIGKILL"
                f" (processes: {listed})",
                hint="they wait inside the kernel, see /proc/PID/stack; run again when they are"
                " gone",
            )
        for hierarchy in hierarchies:
            _kill(hierarchy, site, name)
        _wait(hierarchies[0], directories[0], deadline)
    if protected not in (None, "0"):
        parents.protect(site, layout)


def _refuse_foreign(site: Site, directories: list[str]) -> None:
    members = {pid for top in directories for path in _tree(top) for pid in _processes(path)}
    foreign = sorted(pid for pid in members if _is_foreign(pid, site.lib))
    if foreign:
        described = ", ".join(processes.describe(pid) for pid in foreign)
        raise ForeignError(
            f"{directories[0]} holds what is of no sandbox: {described}",
            hint=f"move it away (echo {foreign[0]} to cgroup.procs of another cgroup in each"
            " hierarchy) or end it, and run again",
        )


def _is_foreign(pid: int, lib: str) -> bool:
    """Whether a process is neither the sandbox's, by its user namespace, nor the launcher's."""
    try:
        if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
            return False
        with open(f"/proc/{pid}/cmdline", "rb") as handle:
            command = handle.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # One that is about to end has no command line any more.
    return bool(command) and os.fsencode(lib) not in command


def _remove_tree(directory: str) -> bool:
    """Remove a cgroup and all below it; False when processes are left in it."""
    try:
        if _is_removed(directory):
            return True
        removed = [_is_removed(path) for path in _tree(directory)]
        return all(removed)
    except FileNotFoundError:
        return True


def _tree(directory: str) -> list[str]:
    """A cgroup and all cgroups below it, children first."""
    return [path for path, dummy, dummy in os.walk(directory, topdown=False)]


def _is_removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _kill(hierarchy: Hierarchy, site: Site, name: str) -> None:
    directory = hierarchy.sandbox(site, name)
    if _try_write(f"{directory}/cgroup.kill", "1"):
        return

    def is_member(pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as handle:
                return any(f"/{site.cgroup}/{name}/" in f"{line.rstrip()}/" for line in handle)
        except (FileNotFoundError, ProcessLookupError):
            return False

    for path in _tree(directory):
        _try_write(f"{path}/pids.max", "0")  # no more forks while we read and kill
        for pid in _processes(path):
            processes.send_signal(pid, signal.SIGKILL, is_member)
        # Last: a frozen process takes its SIGKILL when it thaws, before it runs on.
        _try_write(f"{path}/cgroup.freeze", "0")
        _try_write(f"{path}/freezer.state", "THAWED")


def _try_write(path: str, value: str) -> bool:
    """Write a file; False when that fails.

    The file may not exist, its cgroup may be gone, or cgroups may be read-only here. SIGKILL does
    the work, so the processes that are left tell whether it mattered.
    """
    try:
        files.write_value(path, value)
    except OSError:
        return False
    return True


def _processes(directory: str) -> list[int]:
    try:
        with open(f"{directory}/cgroup.procs", encoding="ascii") as handle:
            return [int(line) for line in handle]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise


def _wait(hierarchy: Hierarchy, directory: str, deadline: float) -> None:
    """Wait until the cgroup is empty; in version 1, which has no event, by polling."""
    if not hierarchy.unified:
        time.sleep(_POLL_SECONDS)
        return
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/cgroup.events") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in events.read() and time.monotonic() < deadline:
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            events.seek(0)
