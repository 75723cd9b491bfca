# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot list and top."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List, Sequence

from .. import cgroups
from ..sandbox import facts, names, runtime
from ..site import Site
from . import output

HEADS = ("NAME", "STATE", "IMAGE", "ADDRESS", "PORTS", "UPTIME", "MEMORY", "RESTARTS")
_TOP_HEADS = ("NAME", "PIDS", "MEMORY", "CPU-TIME", "OOM-KILLS")
_ENDED = ("exited", "crashed", "backoff", "crash-loop")
_RIGHT = ("UPTIME", "MEMORY", "RESTARTS")


def list_all(site: Site, options: argparse.Namespace) -> int:
    found = all_sandboxes(site)
    if options.format == "json":
        output.print_json(found)
    else:
        rows = [_row(each) for each in found]
        sys.stdout.write(output.table(HEADS, rows, right=_RIGHT))
    return warn(found)


def all_sandboxes(site: Site) -> List[Dict[str, Any]]:
    layout = cgroups.detect()
    found = (facts.summary(site.sandbox(name), layout) for name in names.recorded(site))
    return [each for each in found if each is not None]


def warn(found: Sequence[Dict[str, Any]]) -> int:
    """Tell of broken records; they make the command fail, and hide nothing of the others."""
    broken = [each for each in found if "error" in each]
    for each in broken:
        output.say(f"{each['name']}: {each['error']}")
    return 1 if broken else 0


def _row(each: Dict[str, Any]) -> List[str]:
    if "error" in each:
        return [each["name"], each["state"], *[output.NOTHING] * (len(HEADS) - 2)]
    return [
        each["name"],
        _state(each),
        each["image"],
        ",".join(each["addresses"]) or _network(each),
        ",".join(_port(port) for port in each["published_ports"]) or output.NOTHING,
        output.span(each["uptime"]),
        output.size(each["memory"]),
        str(each["restarts"]),
    ]


def _state(each: Dict[str, Any]) -> str:
    """With what says more of it: how the workload ended, or how healthy it is."""
    state = str(each["state"])
    if state in _ENDED and each["exit_code"] is not None:
        return f"{state}({each['exit_code']})"
    return f"{state}({each['health']})" if each["health"] and state == "running" else state


def _network(each: Dict[str, Any]) -> str:
    """Whose network it has, where that says more than an address."""
    mode = str(each["network_mode"])
    return output.NOTHING if mode in ("bridge", "none") else mode


def _port(port: str) -> str:
    """Without what goes without saying: all addresses, and TCP."""
    shown = port[len("0.0.0.0:") :] if port.startswith("0.0.0.0:") else port
    return shown[: -len("/tcp")] if shown.endswith("/tcp") else shown


def top(site: Site, options: argparse.Namespace) -> int:
    wanted = [names.check(site, name) for name in options.name] or names.recorded(site)
    layout = cgroups.detect()
    found = [
        {"name": name, **vars(cgroups.usage(site, name, layout))}
        for name in wanted
        if runtime.running(site.sandbox(name))
    ]
    if options.format == "json":
        output.print_json(found)
    else:
        found.sort(key=lambda each: each["cpu_seconds"] or 0, reverse=True)
        sys.stdout.write(
            output.table(_TOP_HEADS, [_top_row(each) for each in found], right=_TOP_HEADS[1:])
        )
    return 0


def _top_row(each: Dict[str, Any]) -> List[str]:
    return [
        each["name"],
        _number(each["pids"]),
        output.size(each["memory"]),
        output.span(each["cpu_seconds"]),
        _number(each["oom_kills"]),
    ]


def _number(value: Any) -> str:
    return output.NOTHING if value is None else str(value)
