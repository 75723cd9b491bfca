# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The budgets, and which of them were met; then the figures without a budget."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any, Mapping

import databases
import keeping

KIB = 1024
# Two medians of the same thing differ by this much from run to run.
NOISE = 0.05

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One budget; ``met`` is None when it was not measured, and ``figure`` says why."""

    what: str
    figure: str
    budget: str
    met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "-"}[self.met]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def median(figures: Result, key: str) -> float:
    return float(statistics.median(figures[key]))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _kb(size: float) -> str:
    return f"{size / KIB:.0f} kB"


def judge(result: Result) -> list[Verdict]:
    """Every budget of the design, in its order."""
    return [
        _addition(result["sandlot"]),
        _addition_podman(result),
        _again(result["sandlot"]),
        _modules(result["sandlot"]),
        _memory(result["sandlot"]),
        _memory_conmon(result),
        _disk(result["sandlot"]),
        _image_size(result["sandlot"]),
        _image_modules(result["sandlot"]),
        _connection(),
        _wakeups(result["sandlot"]),
        _network(result),
        *_noisy(result["sandlot"]),
        *(_database(result, mode) for mode in ("read-write", "read-only")),
        *(_keeping(result, step) for step in ("rebuild", "snapshot")),
    ]


def _addition(ours: Result) -> Verdict:
    cost, bare = median(ours, "additional"), median(ours, "bare")
    figure = f"{_ms(cost)} = {cost / bare:.1f} x {_ms(bare)}"
    return Verdict("one more sandbox: bare unshare", figure, "at most 5x", cost <= 5 * bare)


def _addition_podman(result: Result) -> Verdict:
    what, budget = "one more sandbox: podman's collection", "at least 50x less"
    if result["podman"] is None:
        return Verdict(what, _why(result), budget, None)
    cost, theirs = median(result["sandlot"], "additional"), median(result["podman"], "create")
    return Verdict(what, f"{_ms(theirs)} = {theirs / cost:.0f} x ours", budget, theirs >= 50 * cost)


def _again(ours: Result) -> Verdict:
    again, pings = median(ours, "again"), median(ours, "pings")
    figure = f"{again:.2f} s = {again / pings:.2f} x {pings:.2f} s"
    return Verdict("second run: four pings", figure, "at most 1.0x", again <= pings)


def _modules(ours: Result) -> Verdict:
    number = ours["modules"]
    return Verdict("module executions, steady deploy", str(number), "at most 3", number <= 3)


def _memory(ours: Result) -> Verdict:
    size = ours["memory_per_sandbox"]
    return Verdict("memory per idle sandbox", _kb(size), "at most 450 kB", size <= 450 * KIB)


def _memory_conmon(result: Result) -> Verdict:
    what, budget = "memory per idle sandbox: conmon", "below conmon"
    if result["podman"] is None:
        return Verdict(what, _why(result), budget, None)
    size, theirs = result["sandlot"]["memory_per_sandbox"], result["podman"]["memory_conmon"]
    return Verdict(what, f"conmon {_kb(theirs)}", budget, size < theirs)


def _disk(ours: Result) -> Verdict:
    size = median(ours, "disk")
    return Verdict("disk per sandbox", _kb(size), "under 100 kB", size < 100 * KIB)


def _image_size(ours: Result) -> Verdict:
    small, large = median(ours, "start_small"), median(ours, "start_large")
    what = f"start from {ours['large_bytes'] >> 20} MB: from busybox"
    figure = f"{_ms(large)} = {large / small:.2f} x {_ms(small)}"
    return Verdict(what, figure, f"as fast (noise {NOISE:.0%})", large <= small * (1 + NOISE))


def _image_modules(ours: Result) -> Verdict:
    number, changed = ours["images_modules"], ours["images_changed"]
    what = f"second run over {ours['images_number']} images"
    figure = f"{number} module execution, {median(ours, 'images_again'):.2f} s"
    figure += f" (one image: {median(ours, 'images_single'):.2f} s)"
    return Verdict(what, figure, "one execution, nothing changed", number == 1 and not changed)


def _connection() -> Verdict:
    figure = "not measured: needs a host behind SSH"
    return Verdict("exec through the connection plugin", figure, "at most 1.2x", None)


def _wakeups(ours: Result) -> Verdict:
    number = ours["wakeups"]
    figure = f"{number} in {ours['wakeups_seconds']:.0f} s"
    return Verdict("idle wake-ups, all inits, launcher, zygote", figure, "none", number == 0)


def _network(result: Result) -> Verdict:
    what, budget = "network: podman's bridge", f"not below (noise {NOISE:.0%})"
    if result["podman"] is None:
        return Verdict(what, _why(result), budget, None)
    speed, theirs = median(result["network"], "sandlot"), median(result["network"], "podman")
    pairs = zip(result["network"]["sandlot"], result["network"]["podman"])
    ratio = statistics.median(one / other for one, other in pairs)
    figure = f"{ratio:.2f} ({speed / 1000:.1f} and {theirs / 1000:.1f} Gbit/s)"
    return Verdict(what, figure, budget, ratio >= 1 - NOISE)


def _noisy(ours: Result) -> list[Verdict]:
    """One for each attack of a neighbour."""
    found = []
    for name, pair in ours["noisy"].items():
        idle, attacked = pair["idle"], pair["attacked"]
        times = attacked["p99"] / idle["p99"]
        figure = f"p99 {_ms(attacked['p99'])} = {times:.1f} x {_ms(idle['p99'])}"
        figure += f" (p50 {_ms(attacked['p50'])}, idle {_ms(idle['p50'])})"
        what = f"requests while a neighbour attacks {name}"
        found.append(Verdict(what, figure, "below 5x", times < 5))
    return found


def _database(result: Result, mode: str) -> Verdict:
    what, budget = f"PostgreSQL on a volume, {mode}: the host", "at least 0.97x"
    if result["databases"] is None:
        return Verdict(what, _why(result, "databases"), budget, None)
    pair = result["databases"][mode]
    ratio = statistics.median(databases.ratios(pair))
    inside, outside = median(pair, "volume"), median(pair, "host")
    figure = f"{ratio:.2f} ({inside:.0f} and {outside:.0f} transactions a second)"
    return Verdict(what, figure, budget, ratio >= 0.97)


def _keeping(result: Result, step: str) -> Verdict:
    what = {"rebuild": "a rebuild that sets 10 GB aside", "snapshot": "a snapshot of 10 GB"}[step]
    what, budget = f"{what}: of nothing", "under 1 s more"
    if result["keeping"] is None:
        return Verdict(what, _why(result, "keeping"), budget, None)
    more = keeping.more(result["keeping"], step)
    whole = median(result["keeping"], f"{step}_large")
    return Verdict(what, f"{_ms(more)} more, of {_ms(whole)}", budget, more < 1)


def _why(result: Result, what: str = "podman") -> str:
    return f"not measured: {result['not_measured'][what]}"


def others(result: Result) -> list[tuple[str, str]]:
    """Figures that no budget speaks of."""
    ours, sizes = result["sandlot"], result["sizes"]
    few, many = sizes["few"], sizes["many"]
    rows = [
        (f"T({few}), a bare machine to {few} sandboxes", f"{median(ours, 'deploy_few'):.2f} s"),
        (f"T({many})", f"{median(ours, 'deploy_many'):.2f} s"),
        (f"teardown of {many} and of the runtime", f"{median(ours, 'teardown_many'):.2f} s"),
        ("PSS of an init", _kb(ours["memory_init"])),
        ("PSS of launcher and zygote", _kb(ours["memory_launcher"])),
        ("PSS of the workload (busybox sleep)", _kb(ours["memory_workload"])),
        ("sandlot exec NAME -- true", _ms(median(ours, "exec"))),
        ("host to sandbox", f"{median(result['network'], 'sandlot') / 1000:.1f} Gbit/s"),
    ]
    return rows + (_podman_rows(result["podman"]) if result["podman"] else [])


def _podman_rows(theirs: Result) -> list[tuple[str, str]]:
    labels = {
        "create": "podman_container, one more",
        "again": "podman_container, one more that exists",
        "remove": "podman_container, one more to remove",
        "batch": "podman_containers (batch), one more",
        "run": "podman run, without Ansible",
        "exec": "podman exec NAME true",
    }
    return [(label, _ms(median(theirs, key))) for key, label in labels.items()]
