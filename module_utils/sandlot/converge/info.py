# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What there is and how it does: read without a lock, a broken record stops nobody else."""

from __future__ import annotations

from typing import Any, Dict, Iterable

from .. import cgroups, record, runtime
from ..paths import Paths
from ..record import Records
from .report import facts

Json = Dict[str, Any]


def info(paths: Paths, names: Iterable[str] | None = None) -> list[Json]:
    """Facts of the named sandboxes, of all when None; a name without a sandbox is left out."""
    records = record.load_all(paths)
    layout = cgroups.detect()
    wanted = records.names() if names is None else records.names() & set(names)
    return [_one(paths, name, records, layout) for name in sorted(wanted)]


def _one(paths: Paths, name: str, records: Records, layout: cgroups.Layout) -> Json:
    if name in records.broken:
        return {"name": name, "state": "broken", "error": str(records.broken[name])}
    known = records.good[name]
    running = runtime.running(paths, name)
    status = runtime.status(paths, name)
    return {
        **facts(known),
        "state": runtime.state(known.phase, known.wanted, running, status),
        "wanted": known.wanted,
        "pid": running.pid if running else None,
        "uptime": runtime.uptime(running, status),
        "memory": cgroups.usage(paths, name, layout).memory if running else None,
        "restarts": status.get("restarts", 0),
        "exit_code": status.get("exit_code"),
        "spec": known.spec.to_json(),
    }
