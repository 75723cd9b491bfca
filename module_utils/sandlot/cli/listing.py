# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot list and top."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List, Mapping, Sequence

from .. import cgroups
from ..sandbox import facts, names, runtime
from ..site import Site
from . import output

HEADS = ("NAME", "STATE", "IMAGE", "ADDRESS", "PORTS", "UPTIME", "MEMORY", "RESTARTS")
_TOP_HEADS = ("NAME", "PIDS", "MEMORY", "CPU-TIME", "OOM-KILLS")
_RIGHT = ("UPTIME", "MEMORY", "RESTARTS")


def list_all(site: Site, options: argparse.Namespace) -> int:
    sandboxes = all_sandboxes(site)
    crashes = _crashes(site, sandboxes)
    if options.format == "json":
        output.print_json(sandboxes)
    else:
        rows = [_row(entry) for entry in sandboxes]
        sys.stdout.write(output.table(HEADS, rows, right=_RIGHT))
        sys.stdout.flush()
        for line in crashes:
            output.say(line)
    return warn(sandboxes)


def _crashes(site: Site, sandboxes: Sequence[Dict[str, Any]]) -> List[str]:
    """Add the crashes to the entries; a line for each."""
    ended = [
        entry
        for entry in sandboxes
        if entry["state"] in runtime.ENDED and entry["wanted"] == "started"
    ]
    if not ended:
        return []
    # The option table takes longer to import than a list without crashes to print.
    from ..sandbox import crash

    lines = []
    for entry in ended:
        end = crash.look(site, entry["name"])
        if end:
            entry["crash"] = {"what": end.what, "remedy": end.remedy}
            lines.append(f"{entry['name']}: {end.brief()}")
    return lines


def all_sandboxes(site: Site) -> List[Dict[str, Any]]:
    layout = cgroups.detect()
    summaries = (facts.summary(site.sandbox(name), layout) for name in names.recorded(site))
    return [entry for entry in summaries if entry is not None]


def warn(sandboxes: Sequence[Dict[str, Any]]) -> int:
    """Print the errors of broken records; the command shows the other sandboxes and then fails."""
    broken = [entry for entry in sandboxes if "error" in entry]
    for entry in broken:
        output.say(f"{entry['name']}: {entry['error']}")
    return 1 if broken else 0


def _row(entry: Dict[str, Any]) -> List[str]:
    if "error" in entry:
        return [entry["name"], entry["state"], *[output.NOTHING] * (len(HEADS) - 2)]
    mode = str(entry["network_mode"])
    # All addresses and TCP are defaults and left out.
    ports = (p.removeprefix("0.0.0.0:").removesuffix("/tcp") for p in entry["published_ports"])
    return [
        entry["name"],
        _state(entry),
        entry["image"],
        # Without an address, the network's mode is shown.
        ",".join(entry["addresses"]) or (output.NOTHING if mode in ("bridge", "none") else mode),
        ",".join(ports) or output.NOTHING,
        output.span(entry["uptime"]),
        output.size(entry["memory"]),
        str(entry["restarts"]),
    ]


def _state(entry: Mapping[str, Any]) -> str:
    """The state, with the last exit code and signal or the health, and the kills for memory."""
    state, kills = str(entry["state"]), entry["oom_kills"]
    notes = [entry["exit_code"] if state in runtime.ENDED else None]
    if state in runtime.ENDED and entry.get("signal") and not kills:
        # As slow to import as above.
        from ..spec.quantities import signal_name

        notes.append(signal_name(entry["signal"]))
    notes.append(entry["health"] if state in ("running", "restarting") else None)
    by_host = state == "stopped" and entry["wanted"] == "started"
    notes.append("by the host" if by_host else None)
    notes.append(f"{kills} OOM kill{'s' if kills > 1 else ''}" if kills else None)
    text = ", ".join(str(note) for note in notes if note is not None)
    return f"{state}({text})" if text else state


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
        usages.sort(key=lambda entry: entry["cpu_seconds"] or 0, reverse=True)
        rows = [
            [
                entry["name"],
                _number(entry["pids"]),
                output.size(entry["memory"]),
                output.span(entry["cpu_seconds"]),
                _number(entry["oom_kills"]),
            ]
            for entry in usages
        ]
        sys.stdout.write(output.table(_TOP_HEADS, rows, right=_TOP_HEADS[1:]))
    return 0


def _number(value: Any) -> str:
    return output.NOTHING if value is None else str(value)
