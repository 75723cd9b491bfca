# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Pure: who comes before whom. A graph has, for each name, the names it needs."""

from __future__ import annotations

from typing import Dict, Iterable, Mapping, Sequence, Set, Tuple

Graph = Mapping[str, Iterable[str]]
_Stuck = Dict[str, Set[str]]


def levels(graph: Graph) -> list[list[str]]:
    """Names in the graph's order, level by level: each needs only what is in levels before.

    What the graph itself does not have counts as there. A cycle, and what needs it, is last.
    """
    found, stuck = _peel(graph)
    return [*found, list(stuck)] if stuck else found


def cycle(graph: Graph) -> list[str]:
    """A cycle, which ends with the name it begins with; [] when there is none."""
    _, stuck = _peel(graph)
    path = sorted(stuck)[:1]
    while path:
        following = min(name for name in stuck[path[-1]] if name in stuck)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
    return []


def reachable(graph: Graph, names: Iterable[str]) -> dict[str, Sequence[str]]:
    """The part of the graph that these names lead to, themselves included."""
    found: Dict[str, Sequence[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in graph and name not in found:
            found[name] = tuple(graph[name])
            waiting += found[name]
    return found


def _peel(graph: Graph) -> Tuple[list[list[str]], _Stuck]:
    waiting: _Stuck = {name: {n for n in needs if n in graph} for name, needs in graph.items()}
    found: list[list[str]] = []
    while True:
        ready = [name for name, needs in waiting.items() if not any(n in waiting for n in needs)]
        if not ready:
            return found, waiting
        for name in ready:
            del waiting[name]
        found.append(ready)
