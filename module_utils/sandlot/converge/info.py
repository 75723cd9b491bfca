# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What there is and how it does: read without a lock, a broken record stops nobody else."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterable

from .. import cgroups, runtime
from ..paths import Paths
from . import record
from .record import REMOVING, STOPPED, Record, Records
from .report import facts

Json = Dict[str, Any]


def info(paths: Paths, names: Iterable[str] | None = None) -> list[Json]:
    """Facts of the named sandboxes, of all when None; a name without a sandbox is left out."""
    records = record.load_all(paths)
    wanted = records.names() if names is None else records.names() & set(names)
    return [_one(paths, name, records) for name in sorted(wanted)]


def _one(paths: Paths, name: str, records: Records) -> Json:
    if name in records.broken:
        return {"name": name, "state": "broken", "error": str(records.broken[name])}
    known = records.good[name]
    running = runtime.running(paths, name)
    status = runtime.status(paths, name)
    return {
        **facts(known),
        "state": _state(known, running, status),
        "wanted": known.wanted,
        "pid": running.pid if running else None,
        "uptime": _uptime(running, status),
        "memory": cgroups.usage(paths, name).memory if running else None,
        "restarts": status.get("restarts", 0),
        "exit_code": status.get("exit_code"),
        "spec": known.spec.to_json(),
    }


def _state(known: Record, running: runtime.Running | None, status: Json) -> str:
    """The workload's state; "created" was never started, "down" not since the host's boot."""
    if known.phase == REMOVING:
        return "removing"
    if running:
        return str(status.get("state", "starting"))
    if not status:
        return "created" if known.wanted == STOPPED else "down"
    if known.wanted == STOPPED:
        return "stopped"
    return "exited" if status.get("final") else "crashed"


def _uptime(running: runtime.Running | None, status: Json) -> float | None:
    if not running:
        return None
    return round(max(0.0, time.time() - float(status.get("since", running.since))), 1)
