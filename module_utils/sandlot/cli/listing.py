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
    sandboxes = all_sandboxes(site)
    if options.format == "json":
        output.print_json(sandboxes)
    else:
        rows = [_row(each) for each in sandboxes]
        sys.stdout.write(output.table(HEADS, rows, right=_RIGHT))
    return warn(sandboxes)


def all_sandboxes(site: Site) -> List[Dict[str, Any]]:
    layout = cgroups.detect()
    summaries = (facts.summary(site.sandbox(name), layout) for name in names.recorded(site))
    return [each for each in summaries if each is not None]


def warn(sandboxes: Sequence[Dict[str, Any]]) -> int:
    """Print the errors of broken records, which make the command fail; the others are shown."""
    broken = [each for each in sandboxes if "error" in each]
    for each in broken:
        output.say(f"{each['name']}: {each['error']}")
    return 1 if broken else 0


def _row(each: Dict[str, Any]) -> List[str]:
    if "error" in each:
        return [each["name"], each["state"], *[output.NOTHING] * (len(HEADS) - 2)]
    mode = str(each["network_mode"])
    return [
        each["name"],
        _state(each),
        each["image"],
        # The mode of the network says more than a missing address.
        ",".join(each["addresses"]) or (output.NOTHING if mode in ("bridge", "none") else mode),
        ",".join(_port(port) for port in each["published_ports"]) or output.NOTHING,
        output.span(each["uptime"]),
        output.size(each["memory"]),
        str(each["restarts"]),
    ]


def _state(each: Dict[str, Any]) -> str:
    """The state with the exit code of a workload that ended, or the health of one that runs."""
    state = str(each["state"])
    if state in _ENDED and each["exit_code"] is not None:
        return f"{state}({each['exit_code']})"
    return f"{state}({each['health']})" if each["health"] and state == "running" else state


def _port(port: str) -> str:
    """A port without the defaults: all addresses, and TCP."""
    shown = port[len("0.0.0.0:") :] if port.startswith("0.0.0.0:") else port
    return shown[: -len("/tcp")] if shown.endswith("/tcp") else shown


def top(site: Site, options: argparse.Namespace) -> int:
    wanted = [names.check(site, name) for name in options.name] or names.recorded(site)
    layout = cgroups.detect()
    usages = [
        {"name": name, **vars(cgroups.usage(site, name, layout))}
        for name in wanted
        if runtime.running(site.sandbox(name))
    ]
    if options.format == "json":
        output.print_json(usages)
    else:
        usages.sort(key=lambda each: each["cpu_seconds"] or 0, reverse=True)
        sys.stdout.write(
            output.table(_TOP_HEADS, [_top_row(each) for each in usages], right=_TOP_HEADS[1:])
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
