# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What there is and how it does: read without a lock, a broken record stops nobody else."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Mapping

from .. import cgroups
from ..sandbox import last_words, oom, record, runtime
from ..sandbox.record import Records
from ..site import Site
from .report import facts

Json = Dict[str, Any]


def info(site: Site, names: Iterable[str] | None = None) -> list[Json]:
    """Facts of the named sandboxes, of all when None; a name without a sandbox is left out."""
    records = record.load_all(site)
    layout = cgroups.detect()
    wanted = records.names() if names is None else records.names() & set(names)
    return [_one(site, name, records, layout) for name in sorted(wanted)]


def _one(site: Site, name: str, records: Records, layout: cgroups.Layout) -> Json:
    if name in records.broken:
        return {"name": name, "state": "broken", "error": str(records.broken[name])}
    known = records.good[name]
    running = runtime.running(site.sandbox(name))
    status = runtime.status(site.sandbox(name))
    usage = cgroups.usage(site, name, layout)
    return {
        **facts(known),
        "state": runtime.state(known.phase, known.wanted, running, status),
        "wanted": known.wanted,
        "pid": running.pid if running else None,
        "uptime": runtime.uptime(running, status),
        "memory": usage.memory if running else None,
        **_health(site, name, status if running else {}),
        "restarts": status.get("restarts", 0),
        "exit_code": status.get("exit_code"),
        "signal": status.get("signal"),
        "oom_kills": oom.total(site.sandbox(name), usage.oom_kills),
        "last_log": last_words.last_log(site.sandbox(name)),
        "spec": known.spec.to_json(),
    }


def _health(site: Site, name: str, status: Mapping[str, Any]) -> Json:
    """Of a sandbox that runs; None without a healthcheck."""
    if "health" not in status:
        return {"health": None, "failing_streak": None, "health_output": None}
    output = last_words.last_output(site.sandbox(name))
    known = {key: status[key] for key in ("health", "failing_streak")}
    return {**known, "health_output": output}
