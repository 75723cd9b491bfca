# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The layers of the engine, drawn from its imports and compared with docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
ENGINE = TOP / "module_utils" / "sandlot"
TABLE = TOP / "docs" / "architecture.md"
HEADER = "| layer | holds | imports |"
Graph = Mapping[str, set[str]]


def modules(engine: Path) -> dict[str, Path]:
    """Dotted name below the engine -> file; a package has the name of its directory."""
    found = {}
    for path in sorted(engine.rglob("*.py")):
        parts = path.relative_to(engine).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(engine: Path) -> dict[str, set[str]]:
    """Module -> modules of the engine that it imports anywhere, also for types only."""
    known = modules(engine)
    return {name: set(_imported(name, path, known)) for name, path in known.items()}


def _imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])]).lstrip(".")
            for alias in node.names:
                target = f"{base}.{alias.name}".lstrip(".")
                # A package imports its own parts: that is what it consists of, not a circle.
                yield target if target in known else base


def circles(graph: Graph) -> list[list[str]]:
    """Sets of modules that import each other (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return found


def part(module: str) -> str:
    """The package or top-level module that a module belongs to."""
    return module.partition(".")[0]


def rows() -> list[tuple[list[str], set[str]]]:
    """(parts, what they import) of each row, from the lowest layer to the highest."""
    _, header, rest = TABLE.read_text().partition(f"{HEADER}\n")
    assert header, f"{TABLE.name} has no table {HEADER}"
    found = []
    for line in rest.splitlines()[1:]:
        if not line.startswith("|"):
            break
        cells = line.strip("|").split("|")
        found.append((_names(cells[0]), set(_names(cells[-1]))))
    return found


def _names(cell: str) -> list[str]:
    return [name.rstrip("/") for name in re.findall(r"`([\w/]+)`", cell)]


GRAPH = imports(ENGINE)


def test_no_module_imports_itself_through_others() -> None:
    assert circles(GRAPH) == []


def test_the_circle_test_sees_circles() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]


def test_each_part_is_in_the_table() -> None:
    listed = [name for parts, _ in rows() for name in parts]
    assert sorted(listed) == sorted({part(name) for name in GRAPH if name})


@pytest.mark.parametrize("number", range(len(rows())))
def test_a_layer_imports_what_the_table_says(number: int) -> None:
    table = rows()
    parts, written = table[number]
    drawn = {
        part(target)
        for module, targets in GRAPH.items()
        for target in targets
        if part(module) in parts and part(target) not in (*parts, "")
    }
    below = {name for lower, _ in table[:number] for name in lower}
    assert drawn <= below, f"{parts} import layers above them: {sorted(drawn - below)}"
    assert drawn == written, (
        f"write into the table: {' '.join(f'`{name}`' for name in sorted(drawn))}"
    )
