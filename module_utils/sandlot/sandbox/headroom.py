# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Lets root start a command in a sandbox that has used up its processes.

Such a sandbox is one that root wants to look into. Its limit is higher while the command starts;
what the command forks later counts as usual.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Iterator, Mapping

from .. import store
from ..errors import StateError
from ..kernel import flock
from ..kernel.files import read_number, write_value
from ..site import SandboxPaths

# A tenant may take each process that it can get, and init needs one.
EXTRA = 64
# So few are soon used up.
_FEW = 4
_WAIT_SECONDS, _POLL_SECONDS = 10.0, 0.01


@contextlib.contextmanager
def for_a_command(sandbox: SandboxPaths) -> Iterator[None]:
    """Raise the limit until the block ends, if the sandbox is at it."""
    directory = _pids_cgroup(sandbox)
    if not directory or not _is_full(directory):
        yield
        return
    # Two commands at a time would take each other's limit for the sandbox's own.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if flock.take_until(fd, time.monotonic() + _WAIT_SECONDS, _POLL_SECONDS):
            with _raised(f"{directory}/pids.max", f"{directory}/pids.current"):
                yield
        else:
            yield  # the other one is stopped; this one starts if it can
    finally:
        os.close(fd)


@contextlib.contextmanager
def _raised(file: str, current: str) -> Iterator[None]:
    limit, raised = read_number(file), (read_number(current) or 0) + EXTRA
    write_value(file, str(raised))
    try:
        yield
    finally:
        # Unless a run has set it meanwhile.
        if limit is not None and read_number(file) == raised:
            write_value(file, str(limit))


def _is_full(directory: str) -> bool:
    limit, used = (read_number(f"{directory}/pids.{file}") for file in ("max", "current"))
    return limit is not None and used is not None and used + _FEW >= limit


def _pids_cgroup(sandbox: SandboxPaths) -> str:
    """The cgroup that limits processes, "" when there is none."""
    try:
        launch: Mapping[str, Any] = store.read(sandbox.launch) or {}
    except StateError:
        return ""
    directories = launch.get("cgroups") or ()
    return next((path for path in directories if os.path.exists(f"{path}/pids.max")), "")
