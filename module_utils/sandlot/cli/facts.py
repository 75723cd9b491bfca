# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a list shows of a sandbox, from its record and the kernel, without importing the engine.

``converge.info`` tells more and the same, but costs a tenth of a second to import.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .. import cgroups, store
from ..errors import StateError
from ..sandbox import runtime
from ..site import Site
from . import names

Json = Dict[str, Any]


def all_sandboxes(site: Site) -> List[Json]:
    layout = cgroups.detect()
    found = (_facts(site, name, layout) for name in names.known(site))
    return [facts for facts in found if facts is not None]


def _facts(site: Site, name: str, layout: cgroups.Layout) -> Optional[Json]:
    """None for a directory without a record: nothing is promised of it yet."""
    try:
        record = store.read(site.sandbox(name).record)
        return None if record is None else _whole(site, name, record, layout)
    except StateError as error:
        return {"name": name, "state": "broken", "error": str(error)}
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{site.sandbox(name).record} has a missing or wrong field ({error!r})"
        problem += f"; restore it from a backup, or remove sandbox {name} and deploy it again"
        return {"name": name, "state": "broken", "error": problem}


def _whole(site: Site, name: str, record: Json, layout: cgroups.Layout) -> Json:
    running = runtime.running(site.sandbox(name))
    status = runtime.status(site.sandbox(name))
    return {
        "name": name,
        "state": runtime.state(record["phase"], record["wanted"], running, status),
        "image": _text(record["image"]["name"]),
        "network_mode": _text(record["spec"].get("network_mode", "bridge")),
        "addresses": [
            _text(entry[key]).partition("/")[0]
            for entry in record["interfaces"]
            for key in ("ipv4", "ipv6")
            if key in entry
        ],
        "published_ports": [_text(port) for port in record["spec"]["published_ports"]],
        "wanted": _text(record["wanted"]),
        "pid": running.pid if running else None,
        "uptime": runtime.uptime(running, status),
        "memory": cgroups.usage(site, name, layout).memory if running else None,
        "health": status.get("health") if running else None,
        "restarts": status.get("restarts", 0),
        "exit_code": status.get("exit_code"),
        "signal": status.get("signal"),
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
