# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Each step at ten, a hundred and a thousand sandboxes."""

from __future__ import annotations

from collections import defaultdict
from typing import Callable, Dict, List

from ours import Ours, names
from rows import Figures, Row, Values, at_most, ms, plain, ratios, seconds, times
from setting import Bench, Sizes, say

# CPU time of a launcher comes in hundredths of a second.
RESTARTS = 5


def measure(bench: Bench) -> Figures:
    sizes = bench.sizes
    figures: Dict[str, Dict[str, List[float]]] = {
        str(number): defaultdict(list) for number in sizes.growth
    }
    for turn in range(sizes.repetitions):
        for number, series in figures.items():
            say(f"{number} sandboxes, turn {turn + 1} of {sizes.repetitions}")
            with bench.ours() as ours:
                _steps(ours, int(number), sizes, series)
    return {"sizes": list(sizes.growth), "series": figures}


def _steps(ours: Ours, number: int, sizes: Sizes, series: Dict[str, List[float]]) -> None:
    last = names(number)[-1]
    series["deploy"].append(ours.deploy(number).seconds)
    series["again"].append(ours.steady(number).seconds)
    series["list"].append(ours.command("list").seconds)
    restarts = [ours.restart(last) for _ in range(RESTARTS)]
    series["restart"].append(sum(done.seconds for done in restarts) / RESTARTS)
    series["restart_cpu"].append(sum(done.cpu for done in restarts) / RESTARTS)
    series["packet"].append(ours.packet_seconds(last, sizes.packets))
    series["connection"].append(ours.packet_seconds(last, sizes.packets // 20, fresh=True))
    series["stop"].append(ours.command("down").seconds)
    ours.forget_boot()
    series["boot"].append(ours.command("up").seconds)
    if len(ours.inits()) != number:
        raise OSError(f"{len(ours.inits())} of {number} sandboxes run after a boot")
    series["teardown"].append(ours.teardown().seconds)


def rows(figures: Figures) -> list[Row]:
    few, middling, many = (figures["series"][str(size)] for size in figures["sizes"])
    dummy, hundred, thousand = figures["sizes"]
    ratio = ratios(many["again"], middling["again"])
    figure = f"{times(ratio)}: {seconds(many['again'])}, {seconds(middling['again'])}"
    cpu = f"{ms(many['restart_cpu'])}; of {hundred} {ms(middling['restart_cpu'])}"
    return [
        at_most(f"second run at {thousand}: at {hundred}", ratio, 1.3, figure),
        at_most(f"restart of one of {thousand}, CPU time", many["restart_cpu"], 0.3, cpu, " s"),
    ]


def _us(values: Values) -> str:
    return plain([value * 1e6 for value in values], " us")


STEPS: Dict[str, tuple[str, Callable[[Values], str]]] = {
    "deploy": ("deploy on a bare machine", seconds),
    "again": ("second run", seconds),
    "stop": ("stop of all", seconds),
    "boot": ("boot: all of them start", seconds),
    "teardown": ("teardown", seconds),
    "list": ("`sandlot list`", ms),
    "restart": ("restart of one", ms),
    "restart_cpu": ("the same, CPU time", ms),
    "packet": ("a packet between host and the last one", _us),
    "connection": ("the same, of a new connection", _us),
}


def table(figures: Figures) -> list[list[str]]:
    sizes = figures["sizes"]
    head = ["step", *(f"{size} sandboxes" for size in sizes)]
    body = [
        [label, *(told(figures["series"][str(size)][key]) for size in sizes)]
        for key, (label, told) in STEPS.items()
    ]
    return [head, *body]
