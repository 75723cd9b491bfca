# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What idle sandboxes take: memory, disk and wake-ups; before they did anything, and after."""

from __future__ import annotations

import os
import resource
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List

from ours import WORKLOAD, Ours, instances, names
from peer import Peer
from peer import names as peer_names
from rows import KIB, Figures, Row, at_most, kb, middle
from setting import Bench, Sizes, say

# Init leaves its supervisor two seconds after the last event.
SETTLE_SECONDS = 10.0
LIMIT_SECONDS = 120.0
SEVERAL, NEVER = "2s", "24h"
CHECKS = "/checks"


def measure(bench: Bench) -> Figures:
    sizes, peer = bench.sizes, bench.peer()
    figures: Figures = {"many": sizes.many, "crowd": sizes.crowd}
    free: Dict[str, List[float]] = {"sandlot": [], "podman": []}
    for turn in range(sizes.repetitions):
        say(f"memory of the host, turn {turn + 1} of {sizes.repetitions}")
        with bench.ours() as ours:
            free["sandlot"].append(_taken(sizes.crowd, partial(_sandboxes, ours, sizes)))
        if peer is not None:
            reach = partial(_containers, peer, sizes)
            free["podman"].append(_taken(sizes.peer_crowd, reach))
            figures["conmon"] = peer.conmon(sizes.peer_crowd)
            peer.remove_all()
    say("idle, then with a life behind them")
    with bench.ours() as ours:
        ours.deploy(sizes.many)
        figures["idle"] = _idle(ours, sizes)
        figures["disk"] = ours.disk()
        ours.runner.run(ours.playbook, sandbox_instances=[], sandbox_purge=True)
        _live(ours, sizes)
        figures["lived"] = _idle(ours, sizes)
    return {**figures, "free": free, "seconds": sizes.idle_seconds}


def _taken(number: int, reach: Callable[[int], None]) -> float:
    """Free memory that one of ``number`` takes; the first have taken what all share."""
    reach(0)
    before = free()
    reach(number)
    return (before - free()) / number


def _sandboxes(ours: Ours, sizes: Sizes, number: int) -> None:
    ours.deploy(sizes.few + number)


def _containers(peer: Peer, sizes: Sizes, number: int) -> None:
    """Without Ansible, in which each takes most of a second."""
    for name in peer_names(sizes.peer_few + number)[len(peer.running()) :]:
        peer.run_seconds(name)


def free() -> int:
    """Without what the kernel would give back.

    It keeps free pages for each processor, hundreds of megabytes after a busy time, which MemFree
    does not count.
    """
    os.sync()
    for _ in range(2):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        time.sleep(1.5)
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemFree:"))
    rows = [line.split() for line in Path("/proc/zoneinfo").read_text().splitlines()]
    pages = sum(int(row[1]) for row in rows if row[:1] == ["count:"])
    return free + pages * resource.getpagesize()


def _idle(ours: Ours, sizes: Sizes) -> Figures:
    time.sleep(SETTLE_SECONDS)
    memory = ours.memory()
    return {
        "each": memory.each,
        "init": middle(memory.init),
        "launcher": memory.launcher,
        "workload": middle(memory.workload),
        "wakeups": ours.wakeups(sizes.idle_seconds),
    }


def _live(ours: Ours, sizes: Sizes) -> None:
    """A command, healthchecks and lines of log; at the end no healthcheck is due for a day."""
    lines = f"i=0; while test $i -lt {sizes.lines}; do echo line $i; i=$((i+1)); done"
    command = ["sh", "-c", f"{lines}; exec {' '.join(WORKLOAD)}"]
    test = ["CMD-SHELL", f"echo >> {CHECKS}"]
    for interval in (SEVERAL, NEVER):
        check = {"test": test, "interval": interval}
        made = instances(sizes.many, command=command, healthcheck=check)
        ours.runner.run(ours.playbook, sandbox_instances=made)
        if interval == SEVERAL:
            inits = ours.inits()
            for name in names(sizes.many):
                ours.command("exec", name, "--", "true")
            _await_checks(ours, sizes)
    if ours.inits() != inits:
        raise OSError("a change of the healthcheck's interval restarted sandboxes")


def _await_checks(ours: Ours, sizes: Sizes) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    files = [Path(f"{ours.paths.sandbox(name).upper}{CHECKS}") for name in names(sizes.many)]
    while not all(path.exists() and path.stat().st_size >= sizes.checks for path in files):
        if time.monotonic() >= deadline:
            raise OSError(f"no {sizes.checks} healthchecks within {LIMIT_SECONDS:.0f} s")
        time.sleep(0.5)


def rows(figures: Figures) -> list[Row]:
    idle, lived, free = figures["idle"], figures["lived"], figures["free"]
    many, crowd, lasting = figures["many"], figures["crowd"], figures["seconds"]
    found = [
        _budget(
            f"PSS per idle sandbox at {many}, with its share of the launcher", idle["each"], 350
        ),
        _budget("the same after an exec, 10 healthchecks and 100 lines of log", lived["each"], 450),
        _budget(f"memory of the host per sandbox at {crowd}", free["sandlot"], 1400),
        _wakeups(f"wake-ups of all inits and the launcher in {lasting:.0f} s", idle["wakeups"]),
        _wakeups("the same after a life", lived["wakeups"]),
        _budget("disk per sandbox before it writes", figures["disk"], 100),
        Row("PSS of an init", f"{kb([idle['init']])}; after a life {kb([lived['init']])}"),
        Row("PSS of launcher and zygote", kb([idle["launcher"]])),
        Row("PSS of the workload (busybox sleep)", kb([idle["workload"]])),
    ]
    if free["podman"]:
        found.append(Row("podman: PSS of conmon", kb(figures["conmon"])))
        found.append(Row("podman: memory of the host per container", kb(free["podman"])))
    return found


def _budget(what: str, values: List[float], limit: int) -> Row:
    return at_most(what, [value / KIB for value in values], limit, kb(values), " kB")


def _wakeups(what: str, number: int) -> Row:
    return Row(what, str(number), "none", number == 0)
