# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Results as tables, on the terminal and in the pages that have them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence

import again
import commands
import connecting
import databases
import deploying
import fleet
import growth
import imagery
import jobs
import keeping
import memory
import network
import noisy
from rows import KIB, Row, middle, number, ratios

PROJECT = Path(__file__).resolve().parent.parent
LATEST = PROJECT / "bench/results/latest.json"
# Each has `measure` and `rows`, and is measured in this order.
PARTS: Dict[str, ModuleType] = {
    "deploy": deploying,
    "again": again,
    "memory": memory,
    "commands": commands,
    "jobs": jobs,
    "connection": connecting,
    "network": network,
    "noisy": noisy,
    "databases": databases,
    "images": imagery,
    "keeping": keeping,
    "fleet": fleet,
    # Last, as each memory cgroup has room for the most file systems that the host has ever had.
    "growth": growth,
}
Result = Mapping[str, Any]
Table = Sequence[Sequence[str]]


def latest() -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(LATEST.read_text())
    return found


def rows(result: Result) -> Iterator[Row]:
    for name, part in PARTS.items():
        if name in result["parts"]:
            yield from part.rows(result["parts"][name]["figures"])
    for name, reason in result["not_measured"].items():
        yield Row(name, f"not measured: {reason}", "-")


def budgets(result: Result) -> List[List[str]]:
    judged = [[row.what, row.figure, row.budget, row.word] for row in rows(result) if row.budget]
    return [["what", "median (lowest-highest)", "budget", ""], *judged]


def figures(result: Result) -> List[List[str]]:
    told = [[row.what, row.figure] for row in rows(result) if not row.budget]
    return [["what", "median (lowest-highest)"], *told]


def show(result: Result) -> None:
    print(f"\n{machine(result)}\n")
    tables = [budgets(result), figures(result)]
    tables += [table(result["parts"]) for table in (_growth, _fleet, _latency)]
    for table in tables:
        if len(table) > 1:
            _print(table)
            print()


def _print(table: Table) -> None:
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def machine(result: Result) -> str:
    parts = result["parts"].values()
    commits = " and ".join(sorted({part["commit"] for part in parts}))
    dates = " and ".join(sorted({part["date"] for part in parts}))
    loads = sorted(part["load"] for part in parts)
    host = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    return (
        f"{dates}, sandlot {commits}, {host['cpus']} processors, {host['memory'] >> 30} GB, "
        f"kernel {host['kernel']}, {host['cgroups']}, {versions}; load {loads[0]:.1f} to "
        f"{loads[-1]:.1f} where parts began, {sum(part['seconds'] for part in parts):.0f} s in all."
    )


def _growth(parts: Result) -> List[List[str]]:
    return growth.table(parts["growth"]["figures"]) if "growth" in parts else []


def _fleet(parts: Result) -> List[List[str]]:
    return fleet.table(parts["fleet"]["figures"]) if "fleet" in parts else []


def _latency(parts: Result) -> List[List[str]]:
    return noisy.latency_table(parts["noisy"]["figures"]) if "noisy" in parts else []


def _comparison(result: Result) -> str:
    """A paragraph for the README."""
    sentences = []
    measured = {name: part["figures"] for name, part in result["parts"].items()}
    if "deploy" in measured:
        ours, theirs = measured["deploy"]["sandlot"], measured["deploy"]["podman"]
        text = f"one more sandbox in a deploy takes {_short(ours['more'])}"
        sentences.append(text + _beside(", one more `podman_container`", theirs.get("create")))
    if "commands" in measured:
        both = measured["commands"]
        sentences.append(
            f"`exec` takes {_short(both['sandlot'])}" + _beside(", podman's", both["podman"])
        )
    if "memory" in measured:
        found = measured["memory"]
        text = f"an idle sandbox takes {number(middle(found['idle']['each']) / KIB)} kB of memory"
        if "conmon" in found:
            text += f", conmon {number(middle(found['conmon']) / KIB)} kB"
        sentences.append(text)
    if "network" in measured and measured["network"]["podman"]:
        ratio = middle(ratios(measured["network"]["sandlot"], measured["network"]["podman"]))
        sentences.append(f"one TCP stream reaches {number(ratio)} of the rate of podman's bridge")
    listed = "; ".join(sentences)
    host = result["machine"]
    return f"On {host['cpus']} processors: {listed}."


def _short(values: Sequence[float]) -> str:
    return f"{number(middle(values) * 1000)} ms"


def _beside(label: str, values: Sequence[float] | None) -> str:
    return f"{label} {_short(values)}" if values else ""


# -- pages

BLOCKS: Dict[str, Callable[[Result], str]] = {
    "machine": lambda result: _wrapped(machine(result)),
    "budgets": lambda result: _markdown(budgets(result)),
    "figures": lambda result: _markdown(figures(result)),
    "growth": lambda result: _markdown(_growth(result["parts"])),
    "fleet": lambda result: _markdown(_fleet(result["parts"])),
    "latency": lambda result: _markdown(_latency(result["parts"])),
    "comparison": lambda result: _wrapped(_comparison(result)),
}
PAGES = ("README.md", "docs/bench.md", "docs/limits.md")
_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.S)


def pages(result: Result) -> Dict[Path, str]:
    """The text that each page is to have."""

    def filled(found: re.Match[str]) -> str:
        return f"{found[1]}\n{BLOCKS[found[2]](result)}\n{found[3]}"

    paths = [PROJECT / page for page in PAGES]
    return {path: _BLOCK.sub(filled, path.read_text()) for path in paths}


def outdated(result: Result) -> List[str]:
    """Pages without the figures of ``result``."""
    return [str(path) for path, text in pages(result).items() if path.read_text() != text]


def _markdown(table: Table) -> str:
    if not table:
        return "Not measured yet.\n"
    head, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|" + "---|" * len(table[0]), *body]) + "\n"


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"
