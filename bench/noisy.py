# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox's visitors notice while its neighbour attacks what both share."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import clock
from ours import Ours
from peer import IMAGE, Peer
from rows import Figures, Row, at_most, ms, ratios, times
from setting import Bench, say

VISITOR = Path(__file__).resolve().parent / "visit.py"
SETTLE_SECONDS = 1.0
# What a host with neighbours gives each of them.
LIMITS = {"memory": "64m", "pids_limit": 100, "cpus": 1, "restart_policy": "always"}
BUSY = "for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"
WEB = "mkdir -p /www; echo ok >/www/index.html; exec httpd -f -p 80 -h /www"
# By the options that are to protect its neighbours beside LIMITS.
CPU: Dict[str, Dict[str, Any]] = {
    "cpus: 1": {},
    "cpus: 1, cpuset_cpus of one": {"cpuset_cpus": str(max(os.sched_getaffinity(0)))},
    "cpus: 1, cpu_shares: 2": {"cpu_shares": 2},
    "cpu_shares: 2": {"cpu_shares": 2, "cpus": 0},
}
PLAIN = next(iter(CPU))
ATTACKS = {
    "memory (`tail /dev/zero`)": "while :; do tail /dev/zero; done",
    "pids (fork bomb)": "bomb() { bomb | bomb & }; bomb; while :; do :; done",
    "disk (256 MiB with fsync)": (
        "while :; do dd if=/dev/zero of=/big bs=1M count=256 conv=fsync; done"
    ),
    "conntrack (UDP to new ports)": (
        "for i in 1 2 3 4; do while :; do port=$((i * 10000));"
        " while test $port -lt $((i * 10000 + 9999)); do port=$((port + 1));"
        " echo x | nc -u -w 1 web $port & test $((port % 15)) = 0 && wait; done; done & done;"
        " wait"
    ),
}
Visits = Dict[str, Dict[str, List[float]]]


def measure(bench: Bench) -> Figures:
    """Percentiles of requests, idle and under each attack, all in the same minutes."""
    peer, sizes = bench.peer(), bench.sizes
    scripts = {**dict.fromkeys(CPU, BUSY), **ATTACKS}
    attackers = {attack: f"attack-{index}" for index, attack in enumerate(scripts)}
    figures: Figures = {attack: _visits() for attack in scripts}
    with bench.ours() as ours:
        _deploy(ours, scripts, attackers)
        web = ours.address("web")
        podman = _Podman(peer) if peer is not None else None
        if podman:
            figures["podman"] = _visits()
        for turn in range(sizes.visits):
            say(f"turn {turn + 1} of {sizes.visits}")
            for attack, name in attackers.items():
                if attack in ATTACKS and turn >= sizes.repetitions:
                    continue
                _pair(figures[attack], _visitor(web, sizes.requests), _runs(ours, name))
                if podman and attack == PLAIN:
                    visit = _visitor(podman.web, sizes.requests, podman.prefix)
                    _pair(figures["podman"], visit, podman.attack())
    return figures


def _visits() -> Visits:
    return {when: {"p50": [], "p99": [], "worst": []} for when in ("idle", "attacked")}


def _pair(visits: Visits, visit: Callable[[], Dict[str, float]], attack: Any) -> None:
    idle = visit()
    with attack:
        time.sleep(SETTLE_SECONDS)
        attacked = visit()
    for when, percentiles in (("idle", idle), ("attacked", attacked)):
        for key, value in percentiles.items():
            visits[when][key].append(value)


def _visitor(
    address: str, requests: int, prefix: Sequence[str] = ()
) -> Callable[[], Dict[str, float]]:
    command = [*prefix, sys.executable, "-ISE", str(VISITOR), address, str(requests)]
    return lambda: json.loads(clock.run(command, environment={}).output)


def _deploy(ours: Ours, scripts: Dict[str, str], attackers: Dict[str, str]) -> None:
    made = [{"name": "web", "command": ["sh", "-c", WEB]}]
    made += [
        {
            **{"name": name, "command": ["sh", "-c", scripts[attack]], "state": "stopped"},
            **{key: value for key, value in {**LIMITS, **CPU.get(attack, {})}.items() if value},
        }
        for attack, name in attackers.items()
    ]
    ours.runner.run(ours.playbook, sandbox_instances=made)


@contextmanager
def _runs(ours: Ours, name: str) -> Iterator[None]:
    ours.command("start", name)
    try:
        yield
    finally:
        ours.command("stop", name)


class _Podman:
    """The same server, and a neighbour with the same limits."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.prefix = peer.prefix
        peer.podman("run", "--detach", "--name=web", IMAGE, "sh", "-c", WEB)
        limits = ["--memory=64m", "--pids-limit=100", "--cpus=1"]
        peer.podman("create", "--name=attack", *limits, IMAGE, "sh", "-c", BUSY)
        self.web = peer.address("web")

    @contextmanager
    def attack(self) -> Iterator[None]:
        self._peer.podman("start", "attack")
        try:
            yield
        finally:
            self._peer.podman("kill", "attack")


def rows(figures: Figures) -> list[Row]:
    found = [_against_podman(figures)] if "podman" in figures else []
    return found + [Row(f"p99 beside an attack, {name}", _told(figures[name])) for name in ATTACKS]


def _against_podman(figures: Figures) -> Row:
    ours, theirs = figures[PLAIN], figures["podman"]
    ratio = ratios(ours["attacked"]["p99"], theirs["attacked"]["p99"])
    figure = f"{times(ratio)}: {_told(ours)}, podman {_told(theirs)}"
    return at_most(f"p99 beside a CPU attack, {PLAIN}: podman's", ratio, 1.1, figure)


def _told(visits: Visits) -> str:
    idle, attacked = visits["idle"]["p99"], visits["attacked"]["p99"]
    return f"{ms(attacked)} = {times(ratios(attacked, idle))} idle"


def latency_table(figures: Figures) -> list[list[str]]:
    """What each option brings, for docs/limits.md."""
    named = {f"sandlot, {attack}": figures[attack] for attack in CPU}
    if "podman" in figures:
        named["podman, --cpus=1"] = figures["podman"]
    table = [["limits of the neighbour", "p50", "p99", "p99, attack off"]]
    for label, visits in named.items():
        attacked = visits["attacked"]
        cells = [ms(attacked["p50"]), ms(attacked["p99"]), ms(visits["idle"]["p99"])]
        table.append([label, *cells])
    return table
