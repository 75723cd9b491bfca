# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The second run of a deploy, with nothing to do, beside a play of four pings."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import playing
from ours import Ours, instances
from rows import KIB, Figures, Row, at_most, number, ratios, seconds, times
from setting import Bench, say

# Fixed, however many modules the play of a deploy has.
PINGS = 4


def measure(bench: Bench) -> Figures:
    sizes = bench.sizes
    pings = playing.write_pings(bench.directory / "pings.json", PINGS)
    variables = {"sandbox_instances": instances(sizes.many)}
    with bench.ours() as ours:
        wire = {"first": _sent(ours, ours.playbook, variables)}
        say(f"{sizes.turns} turns at {sizes.many}")
        modules = ours.steady(sizes.many, verbose=True).modules
        series: Dict[str, List[playing.Play]] = {"again": [], "pings": []}
        for turn in range(sizes.turns):
            # The first of each pair changes.
            for name in sorted(series, reverse=bool(turn % 2)):
                again = name == "again"
                play = ours.steady(sizes.many) if again else ours.runner.run(pings)
                series[name].append(play)
        wire["again"] = _sent(ours, ours.playbook, variables)
        wire["pings"] = _sent(ours, pings, {})
    return {
        "many": sizes.many,
        "modules": modules,
        **{name: [play.seconds for play in played] for name, played in series.items()},
        **{f"{name}_cpu": [play.cpu for play in played] for name, played in series.items()},
        "wire": wire,
    }


def _sent(ours: Ours, playbook: Path, variables: Dict[str, Any]) -> int:
    """Bytes of all files that Ansible sends; with pipelining, the modules are the same bytes."""
    with tempfile.TemporaryDirectory(dir=ours.root.parent) as directory:
        environment = {
            "ANSIBLE_PIPELINING": "0",
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_REMOTE_TEMP": directory,
        }
        replace(ours.runner, environment=environment).run(playbook, **variables)
        return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def rows(figures: Figures) -> list[Row]:
    ratio = ratios(figures["again"], figures["pings"])
    figure = f"{times(ratio)}: {seconds(figures['again'])}, {seconds(figures['pings'])}"
    what = f"second run, {figures['many']} sandboxes, nothing to do: {PINGS} pings"
    wire = {key: f"{number(size / KIB)} kB" for key, size in figures["wire"].items()}
    cpu = f"{seconds(figures['again_cpu'])}; pings {seconds(figures['pings_cpu'])}"
    sent = f"{wire['again']}; first run {wire['first']}; {PINGS} pings {wire['pings']}"
    return [
        at_most(what, ratio, 1.0, figure),
        Row("second run: CPU time", cpu),
        Row("second run: module executions", str(figures["modules"])),
        Row("second run: sent to the host", sent),
    ]
