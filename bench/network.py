# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One TCP stream from the host to a sandbox, in short turns with podman's bridge."""

from __future__ import annotations

from ours import names
from peer import names as peer_names
from rows import NOISE, Figures, Row, middle, plain, ratios, times
from setting import Bench


def measure(bench: Bench) -> Figures:
    """The first of each pair changes: a machine that gets slower meanwhile favours neither."""
    sizes, peer = bench.sizes, bench.peer()
    figures: Figures = {"sandlot": [], "podman": []}
    with bench.ours() as ours:
        ours.deploy(1)
        pumps = {"sandlot": lambda: ours.megabits_per_second(names(1)[0], sizes.pump_seconds)}
        if peer is not None:
            peer.run_seconds(peer_names(1)[0])
            pumps["podman"] = lambda: peer.megabits_per_second(peer_names(1)[0], sizes.pump_seconds)
        for turn in range(sizes.pumps):
            for name in sorted(pumps, reverse=bool(turn % 2)):
                figures[name].append(pumps[name]())
    return figures


def rows(figures: Figures) -> list[Row]:
    ours, theirs = figures["sandlot"], figures["podman"]
    speed = plain([value / 1000 for value in ours], " Gbit/s")
    if not theirs:
        return [Row("host to sandbox", speed)]
    ratio = ratios(ours, theirs)
    figure = f"{times(ratio)}: {speed}, {plain([value / 1000 for value in theirs], ' Gbit/s')}"
    met = middle(ratio) >= 1 - NOISE
    return [Row("bridge and veth: podman's bridge", figure, f"1x (noise {NOISE:.0%})", met)]
