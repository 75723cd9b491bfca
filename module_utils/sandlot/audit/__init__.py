# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compares each sandbox, as the kernel shows it from outside, with its record.

It changes nothing and takes no lock, so a deploy that runs meanwhile is a difference.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Sequence

from .. import __version__, cgroups, converge, network
from ..cgroups import statistics
from ..errors import SandlotError
from ..kernel.text import harmless
from ..sandbox import crash, launchfile, record, runtime
from ..sandbox.record import STARTED, Record, Records
from ..site import Site
from . import limits, links, mounts, orphans, processes
from .subject import Difference, Look, Subject

Json = Dict[str, Any]

ASPECTS = {
    "namespaces": processes.namespaces,
    "ids": processes.ids,
    "confinement": processes.confinement,
    "mounts": mounts.mount_points,
    "limits": limits.limits,
    "addresses": links.addresses,
}
HOST = ""


@dataclass
class _Seen:
    """``shown`` maps sandboxes to a line per aspect, ``digests`` to those of launch file and init.

    A difference outside of sandboxes has "" for a sandbox.
    """

    shown: Dict[str, Dict[str, str]] = field(default_factory=dict)
    digests: Dict[str, Json] = field(default_factory=dict)
    findings: List[Json] = field(default_factory=list)

    def find(self, sandbox: str, aspect: str, difference: Difference) -> None:
        texts = {key: harmless(text) for key, text in difference._asdict().items()}
        self.findings.append({"sandbox": sandbox, "aspect": aspect, **texts})


def audit(site: Site, chosen: Collection[str] | None = None) -> Json:
    """Look at each sandbox (None: at all of them), and list each difference from its record."""
    records = record.load_all(site)
    asked = sorted(records.names() if chosen is None else records.names() & {*chosen})
    seen = _Seen()
    _look_at_each(site, records, asked, seen)
    _to_repair(site, asked, seen)
    if chosen is None:
        for what in orphans.orphans(site, records):
            seen.find(HOST, "orphans", Difference("a record of it", what))
    return {**vars(seen), "host": _host(site)}


def _host(site: Site) -> Json:
    return {
        "kernel": os.uname().release,
        "sandlot": __version__,
        "memory": statistics.host_memory(),
        "cpus": os.cpu_count() or 1,
        "rules": network.packet_filter(site).listed,
        "time": time.time(),
    }


def _look_at_each(site: Site, records: Records, asked: Sequence[str], seen: _Seen) -> None:
    state, pids = cgroups.observe(site, asked), processes.by_pid_namespace()
    for name in asked:
        if name in records.broken:
            seen.find(name, "record", Difference("a record", str(records.broken[name])))
            continue
        launch = launchfile.decoded(launchfile.current(site, name))
        init = runtime.settled(site.sandbox(name))
        seen.digests[name] = {
            "recorded": launch.get("digest"),
            "running": init.digest if init else None,
        }
        looks = _look(site, records.good[name], launch, init, pids, state)
        seen.shown[name] = {aspect: look.shown for aspect, look in looks.items()}
        for aspect, look in looks.items():
            for difference in look.differences:
                seen.find(name, aspect, difference)


def _look(
    site: Site,
    known: Record,
    launch: Json,
    init: runtime.Running | None,
    pids: Mapping[str, List[int]],
    limited: cgroups.CgroupState,
) -> Dict[str, Look]:
    state = runtime.state(known.phase, known.wanted, init, runtime.status(site.sandbox(known.name)))
    looks = {"state": Look(state)}
    if init is None:
        end = crash.look(site, known.name)
        if end or (known.wanted == STARTED and state != "exited"):
            looks["state"].expect("state", "running", end.what if end else state)
        return looks
    if known.wanted != STARTED:
        looks["state"].expect("state", "stopped", state)
    looks["version"] = Look(init.digest[:12])
    looks["version"].expect("digest", str(launch.get("digest"))[:12], init.digest[:12])
    if not launch:
        looks["version"].expect("launch file", "there", "missing or damaged")
        return looks
    members = pids.get(processes.namespace(init.pid, "pid"), [])
    subject = Subject(site, known, launch, init, members, limited)
    try:
        looks.update((aspect, look(subject)) for aspect, look in ASPECTS.items())
    except (FileNotFoundError, ProcessLookupError):
        looks["state"].expect("it", "runs", "ended during the audit")
    return looks


def _to_repair(site: Site, asked: Sequence[str], seen: _Seen) -> None:
    """Each line of a check of sandlot repair: links, addresses and rules."""
    try:
        done = converge.repair(site, check=True)
    except SandlotError as error:
        seen.find(HOST, "repair", Difference("nothing to repair", str(error)))
        return
    of_sandboxes = {name: entry.get("actions", []) for name, entry in done.sandboxes.items()}
    known = {line for entries in of_sandboxes.values() for line in entries}
    others = [line for line in done.actions if line not in known]
    lines = [(name, line) for name in asked for line in of_sandboxes.get(name, [])]
    for name, line in [*lines, *((HOST, line) for line in others)]:
        seen.find(name, "repair", Difference("nothing to repair", line, line))
