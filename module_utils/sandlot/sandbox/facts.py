# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Facts of a sandbox, from its record and the kernel.

`sandlot list` has to start fast, so this module imports neither the option table nor the engine.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from .. import cgroups, profiles, store
from ..errors import StateError
from ..site import SandboxPaths
from . import oom, runtime

Json = Dict[str, Any]


def summary(sandbox: SandboxPaths, layout: cgroups.Layout) -> Optional[Json]:
    """Facts of a sandbox for a listing; those of a broken record hold the error.

    None for a directory without a record, which a run has yet to write.
    """
    try:
        record = store.read(sandbox.record)
        if record is None:
            return None
        usage = cgroups.usage(sandbox.site, sandbox.name, layout)
        live = of_runtime(sandbox, record["phase"], record["wanted"], usage)
        return {"name": sandbox.name, **of_record(record), **live}
    except StateError as error:
        return broken(sandbox, str(error))
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{sandbox.record} has a missing or wrong field ({error!r})"
        remedy = f"restore it from a backup, or remove sandbox {sandbox.name} and deploy it again"
        return broken(sandbox, f"{problem}; {remedy}")


def broken(sandbox: SandboxPaths, problem: str) -> Json:
    return {"name": sandbox.name, "state": "broken", "error": problem}


def of_record(record: Mapping[str, Any]) -> Json:
    """Facts from record.json; KeyError, TypeError or AttributeError if it is damaged."""
    spec, config = record["spec"], record["image"].get("config", {})
    profile = profiles.chosen(spec.get(profiles.OPTION), config)
    labels = {**config.get("labels", {}), **spec.get("labels", {})}
    return {
        "image": _text(record["image"]["name"]),
        "network_mode": _text(spec.get("network_mode", "bridge")),
        "addresses": [
            _text(entry[key]).partition("/")[0]
            for entry in record["interfaces"]
            for key in ("ipv4", "ipv6")
            if key in entry
        ],
        "published_ports": [_text(port) for port in spec["published_ports"]],
        "labels": {_text(key): _text(value) for key, value in labels.items()},
        "security_profile": profile,
        "capabilities": list(profiles.effective(profile, spec["capabilities"])),
        "wanted": _text(record["wanted"]),
    }


def of_runtime(sandbox: SandboxPaths, phase: str, wanted: str, usage: cgroups.Usage) -> Json:
    """Facts of the runtime, which change while the record stays."""
    running = runtime.running(sandbox)
    status = runtime.status(sandbox)
    oom_kills = oom.total(sandbox, usage.oom_kills)
    return {
        "state": runtime.state(phase, wanted, running, status),
        "pid": running.pid if running else None,
        "uptime": runtime.uptime(running, status) if running else None,
        "memory": usage.memory if running else None,
        "cpu_seconds": usage.cpu_seconds if running else None,
        "started": running.since if running else None,
        "health": status.get("health") if running else None,
        "failing_streak": status.get("failing_streak") if running else None,
        "restarts": status.get("restarts", 0),
        "exit_code": status.get("exit_code"),
        "signal": status.get("signal"),
        "oom_kills": oom_kills,
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
