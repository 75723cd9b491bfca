# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The measurements; each returns raw figures in seconds, bytes and Mbit/s."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

import bare
import plays
from ours import Ours, names
from peer import Peer
from peer import names as peer_names

Figures = Dict[str, Any]

# The work of the second run is told in plays of this many tasks that do nothing.
PINGS = 4


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are what the budgets speak of."""

    repetitions: int = 3
    few: int = 10
    many: int = 100
    peer_few: int = 2
    peer_many: int = 10
    quick: int = 15
    """Repetitions of what takes a fraction of a second."""
    idle_seconds: float = 10.0
    pumps: int = 40
    network_seconds: float = 0.4


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def repeat(times: int, action: Callable[[], float]) -> list[float]:
    return [action() for _ in range(times)]


def additional(few: list[float], many: list[float], difference: int) -> list[float]:
    """Cost of one more, from pairs measured one right after the other."""
    return [(high - low) / difference for low, high in zip(few, many)]


def deployments(ours: Ours, sizes: Sizes, directory: Path) -> Figures:
    """From a bare machine to running sandboxes and back. The last ones stay for the rest."""
    pings = plays.write_pings(directory / "pings.json", PINGS)
    series: dict[str, List[float]] = {
        key: [] for key in ("bare", "deploy_few", "deploy_many", "again", "pings", "teardown_many")
    }
    modules = 0
    for index in range(sizes.repetitions):
        say(f"sandlot, repetition {index + 1} of {sizes.repetitions}")
        series["bare"].append(bare.seconds_per_item(sizes.many))
        series["deploy_few"].append(ours.deploy(sizes.few).seconds)
        ours.teardown()
        series["deploy_many"].append(ours.deploy(sizes.many).seconds)
        if not modules:
            modules = _steady_modules(ours, sizes)
        _steady(ours, sizes, pings, series)
        series["teardown_many"].append(ours.teardown().seconds)
    extra = additional(series["deploy_few"], series["deploy_many"], sizes.many - sizes.few)
    return {**series, "additional": extra, "modules": modules}


def _steady_modules(ours: Ours, sizes: Sizes) -> int:
    play = ours.deploy(sizes.many, verbose=True)
    if play.changed:
        raise plays.PlayError(f"the second deploy changed {play.changed} tasks")
    return play.modules


def _steady(ours: Ours, sizes: Sizes, pings: Path, series: dict[str, List[float]]) -> None:
    for _ in range(2):
        series["again"].append(ours.deploy(sizes.many).seconds)
        series["pings"].append(ours.ping(pings).seconds)


def idle(ours: Ours, sizes: Sizes) -> Figures:
    """What sandboxes cost that do nothing."""
    say("sandlot, idle")
    ours.deploy(sizes.many)
    memory = ours.memory()
    return {
        "memory_per_sandbox": memory.per_sandbox,
        "memory_init": statistics.median(memory.init),
        "memory_launcher": memory.launcher,
        "memory_workload": statistics.median(memory.workload),
        "disk": ours.disk(),
        "wakeups": ours.wakeups(sizes.idle_seconds),
        "wakeups_seconds": sizes.idle_seconds,
    }


def commands(ours: Ours, sizes: Sizes) -> Figures:
    name = names(1)[0]
    return {"exec": repeat(sizes.quick, lambda: ours.exec_seconds(name))}


def podman(peer: Peer, sizes: Sizes) -> Figures:
    """The same job in three ways; the last containers stay for the rest."""
    rounds = []
    for index in range(sizes.repetitions):
        say(f"podman, repetition {index + 1} of {sizes.repetitions}")
        peer.remove_all()
        rounds.append(_podman_round(peer, sizes))
    series = {key: [figures[key] for figures in rounds] for key in rounds[0]}
    conmon = peer.conmon(sizes.peer_many)
    return {**series, "memory_conmon": statistics.median(conmon)}


def _podman_round(peer: Peer, sizes: Sizes) -> dict[str, float]:
    few, many = sizes.peer_few, sizes.peer_many
    small = [peer.converge(few, state).seconds for state in ("started", "started", "absent")]
    large = [peer.converge(many, state).seconds for state in ("started", "started", "absent")]
    steps = dict(zip(("create", "again", "remove"), zip(small, large)))
    figures = {key: (high - low) / (many - few) for key, (low, high) in steps.items()}
    direct = [peer.run_seconds(name) for name in peer_names(few)]
    peer.remove_all()
    low = peer.converge_batch(few).seconds
    peer.remove_all()
    high = peer.converge_batch(many).seconds
    return {**figures, "batch": (high - low) / (many - few), "run": statistics.median(direct)}


def podman_commands(peer: Peer, sizes: Sizes) -> Figures:
    name = peer_names(1)[0]
    return {"exec": repeat(sizes.quick, lambda: peer.seconds("exec", name, "true"))}


def throughput(ours: Ours, peer: Peer | None, sizes: Sizes) -> Figures:
    """Host to sandbox over bridge and veth, in short turns with podman's bridge.

    The first of each pair changes, so that a machine that gets slower or faster meanwhile favours
    neither; the pairs are compared one by one.
    """
    say("network")
    pumps = {"sandlot": ours.megabits_per_second}
    if peer is not None:
        pumps["podman"] = peer.megabits_per_second
    figures: Figures = {name: [] for name in ("sandlot", "podman")}
    for turn in range(sizes.pumps):
        for name in sorted(pumps, reverse=bool(turn % 2)):
            figures[name].append(pumps[name](sizes.network_seconds))
    return figures
