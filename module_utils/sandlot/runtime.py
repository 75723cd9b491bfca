# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What runs now, read from the kernel and our runtime files; asks no process and takes no lock."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any, Mapping

from . import store
from .errors import StateError
from .kernel import namespaces
from .paths import PINNED, Paths

# Init rewrites its status in place while others read; a torn read is over at the next try.
_TORN_READS = 10


@dataclass(frozen=True)
class Running:
    """A live init: pid plus start time name it beyond doubt within one boot."""

    pid: int
    start_time: int
    digest: str
    since: float


def running(paths: Paths, name: str) -> Running | None:
    """The sandbox's init, None unless the very process that was started is alive."""
    data = store.read(paths.sandbox(name).init)
    if data is None or data["boot_id"] != store.boot_id():
        return None
    if namespaces.start_time(data["pid"]) != data["start_time"]:
        return None
    return Running(data["pid"], data["start_time"], data["digest"], data["since"])


def status(paths: Paths, name: str) -> dict[str, Any]:
    """What init last said of the workload; {} before the first start.

    Keys: state (starting, running, backoff, stopping, exited, crashed), pid (inside), since,
    restarts, exit_code, final (init has ended on purpose), lost_log_bytes.
    """
    for _ in range(_TORN_READS):
        try:
            with open(paths.sandbox(name).status, "rb") as handle:
                return dict(json.loads(handle.read() or b"{}"))
        except FileNotFoundError:
            return {}
        except ValueError:
            continue
    raise StateError(f"{paths.sandbox(name).status} is not valid JSON", hint="restart the sandbox")


def state(phase: str, wanted: str, running: Running | None, status: Mapping[str, Any]) -> str:
    """The workload's state, from a record's words and what runs.

    "created" was never started, "down" not since the host's boot.
    """
    if phase == "removing":
        return phase
    if running:
        return str(status.get("state", "starting"))
    if not status:
        return "created" if wanted == "stopped" else "down"
    if wanted == "stopped":
        return wanted
    return "exited" if status.get("final") else "crashed"


def uptime(running: Running | None, status: Mapping[str, Any]) -> float | None:
    """Seconds since the workload's state last changed, None when it does not run."""
    if not running:
        return None
    return round(max(0.0, time.time() - float(status.get("since", running.since))), 1)


def pinned(paths: Paths, name: str) -> set[str]:
    """Kinds of namespaces pinned for the sandbox."""
    sandbox = paths.sandbox(name)
    return {kind for kind in PINNED if namespaces.is_namespace_file(sandbox.pin(kind))}


def names(paths: Paths) -> list[str]:
    """Names with a runtime directory, whether or not a record knows them."""
    try:
        entries = os.scandir(paths.run)
    except FileNotFoundError:
        return []
    with entries:
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
