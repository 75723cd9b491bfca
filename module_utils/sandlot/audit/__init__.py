# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compares each sandbox, as the kernel shows it from outside, with its record.

It changes nothing and takes no lock, so a deploy that runs meanwhile is a difference.
"""

from __future__ import annotations

import os
import time
from typing import Any, Collection, Dict, List, Mapping

from .. import __version__, cgroups, converge
from ..cgroups import statistics
from ..sandbox import crash, launchfile, names, record, runtime
from ..sandbox.record import STARTED, Record
from ..site import Site
from . import limits, mounts, processes
from .subject import Look, Subject

Json = Dict[str, Any]

ASPECTS = {
    "namespaces": processes.namespaces,
    "ids": processes.ids,
    "confinement": processes.confinement,
    "mounts": mounts.mount_points,
    "limits": limits.limits,
}
HOST = ""


def audit(site: Site, chosen: Collection[str] | None = None) -> Json:
    """Look at each sandbox (None: at all of them), and list each difference from its record.

    ``shown`` maps sandboxes to a line per aspect; a difference outside of sandboxes has "" for one.
    """
    records = record.load_all(site)
    asked = sorted(records.names() if chosen is None else records.names() & {*chosen})
    state, pids = cgroups.observe(site, asked), processes.by_pid_namespace()
    shown: Dict[str, Dict[str, str]] = {}
    findings: List[Json] = []
    for name in asked:
        if name in records.broken:
            findings.append(_finding(name, "record", "a record", str(records.broken[name])))
            continue
        looks = _look(site, records.good[name], pids, state)
        shown[name] = {aspect: look.shown for aspect, look in looks.items()}
        findings += [
            _finding(name, aspect, *difference)
            for aspect, look in looks.items()
            for difference in look.differences
        ]
    findings += _to_repair(site, asked)
    if chosen is None:
        orphans = sorted(names.known(site) - records.names())
        findings += [_finding(HOST, "orphans", "a record of it", name) for name in orphans]
    return {"shown": shown, "findings": findings, "host": _host()}


def _host() -> Json:
    return {
        "kernel": os.uname().release,
        "sandlot": __version__,
        "memory": statistics.host_memory(),
        "cpus": os.cpu_count() or 1,
        "time": time.time(),
    }


def _finding(sandbox: str, aspect: str, expected: str, actual: str) -> Json:
    return {"sandbox": sandbox, "aspect": aspect, "expected": expected, "actual": actual}


def _look(
    site: Site, known: Record, pids: Mapping[str, List[int]], limited: cgroups.CgroupState
) -> Dict[str, Look]:
    sandbox = site.sandbox(known.name)
    init = runtime.settled(sandbox)
    state = runtime.state(known.phase, known.wanted, init, runtime.status(sandbox))
    looks = {"state": Look(state)}
    if init is None:
        end = crash.look(site, known.name)
        if end or (known.wanted == STARTED and state != "exited"):
            looks["state"].expect("state", "running", end.what if end else state)
        return looks
    if known.wanted != STARTED:
        looks["state"].expect("state", "stopped", state)
    launch = launchfile.decoded(launchfile.current(site, known.name))
    looks["version"] = Look(init.digest[:12])
    looks["version"].expect("digest", str(launch.get("digest"))[:12], init.digest[:12])
    members = pids.get(processes.namespace(init.pid, "pid"), [])
    subject = Subject(site, known, launch, init, members, limited)
    try:
        looks.update((aspect, look(subject)) for aspect, look in ASPECTS.items())
    except (FileNotFoundError, ProcessLookupError):
        looks["state"].expect("it", "runs", "ended during the audit")
    return looks


def _to_repair(site: Site, asked: Collection[str]) -> List[Json]:
    """Each line of a check of sandlot repair: limits, links and rules."""
    done = converge.repair(site, check=True)
    of_sandboxes = {name: entry.get("actions", []) for name, entry in done.sandboxes.items()}
    others = [line for line in done.actions if line not in sum(of_sandboxes.values(), [])]
    lines = [(name, line) for name in asked for line in of_sandboxes.get(name, [])]
    lines += [(HOST, line) for line in others]
    return [_finding(name, "repair", "nothing to repair", line) for name, line in lines]
