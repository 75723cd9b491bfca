# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Jobs with limits: one by turns with podman's, many in a loop, and several clients at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List

import clock
import memory
from ours import Ours
from peer import IMAGE
from rows import Figures, Row, at_most, kb, ms, number, ratios, times
from setting import Bench, say

LIMITS = ["--memory=64m", "--cpus=0.5", "--pids-limit=50", "--network=none"]
CLIENTS = (1, 2, 4, 8)


def measure(bench: Bench) -> Figures:
    peer, sizes = bench.peer(), bench.sizes
    alone: Dict[str, List[float]] = {"sandlot": [], "podman": []}
    with bench.ours() as ours:
        ours.deploy(1)
        _job(ours)  # the launch file is for all
        for _ in range(sizes.quick):
            alone["sandlot"].append(_job(ours).seconds)
            if peer is not None:
                run = peer.podman("run", "--rm", *LIMITS, IMAGE, "true")
                alone["podman"].append(run.seconds)
        say(f"{sizes.jobs // 10} jobs by each number of clients")
        rates = {str(clients): _rate(ours, clients, sizes.jobs // 10) for clients in CLIENTS}
        say(f"{sizes.jobs} jobs one after the other")
        return {**alone, "rates": rates, **_loop(ours, sizes.jobs)}


def _loop(ours: Ours, number: int) -> Figures:
    before, used = memory.free(), ours.launcher_cpu()
    jobs = [_job(ours) for _ in range(number)]
    cpu = sum(job.cpu for job in jobs) + ours.launcher_cpu() - used
    seconds = sum(job.seconds for job in jobs)
    grown = before - memory.free()
    return {"number": number, "seconds": seconds, "cpu": cpu / number, "grown": grown / number}


def _job(ours: Ours) -> clock.Done:
    return ours.command("run", "--image=busybox", *LIMITS, "--", "true")


def _rate(ours: Ours, clients: int, jobs: int) -> float:
    """Jobs in a second."""
    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(_job, ours) for _ in range(jobs)]:
            done.result()
    return jobs / (time.monotonic() - started)


def rows(figures: Figures) -> list[Row]:
    rates = ", ".join(f"{number(rate)} by {n}" for n, rate in figures["rates"].items())
    many, seconds = figures["number"], figures["seconds"]
    others = [
        Row("jobs in a second, by so many clients at once", rates),
        Row(f"{many} jobs one after the other", f"{number(many / seconds)} in a second"),
        Row("one of these, CPU time of client and launcher", ms([figures["cpu"]])),
        Row("memory of the host that one has not given back", kb([figures["grown"]])),
    ]
    if not figures["podman"]:
        return others
    ratio = ratios(figures["sandlot"], figures["podman"])
    figure = f"{times(ratio)}: {ms(figures['sandlot'])}, {ms(figures['podman'])}"
    return [at_most("one job: podman run --rm, with limits", ratio, 0.3, figure), *others]
