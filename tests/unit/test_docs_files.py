# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The state files that docs/architecture.md shows, compared with those that the engine makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from sandlot.idmap import IdRange
from sandlot.network import Interface
from sandlot.sandbox import launchfile
from sandlot.sandbox.record import PRESENT, STARTED, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise
from test_docs import ROOT, of_kind

PAGE = ROOT / "docs/architecture.md"
SHOWN = {
    title: json.loads(block.text)
    for block, title in zip(
        (block for block in of_kind("json") if block.page == PAGE), ("record.json", "launch.json")
    )
}


@pytest.fixture(scope="module")
def record() -> Record:
    example = next(block for block in of_kind("yaml") if block.page == PAGE)
    (instance,) = yaml.safe_load(example.text)["sandbox_instances"]
    shown = SHOWN["record.json"]
    return Record(
        name="web",
        phase=PRESENT,
        wanted=STARTED,
        spec=normalise(instance),
        ids=IdRange(200000, 65536),
        image=ImageRef.from_json(shown["image"]),
        interfaces=tuple(Interface.from_json("web", entry) for entry in shown["interfaces"]),
    )


def _differences(shown: Any, made: Any, where: str = "") -> list[str]:
    """Keys must be the same, and plain values too, unless they are words about the value."""
    if isinstance(shown, dict) and isinstance(made, dict):
        missing = [] if "..." in shown else sorted(made.keys() - shown.keys())
        unknown = sorted(shown.keys() - made.keys() - {"..."})
        found = [f"{where}: not shown: {missing}"] if missing else []
        found += [f"{where}: unknown: {unknown}"] if unknown else []
        common = [key for key in shown if key in made]
        return found + [
            line for key in common for line in _differences(shown[key], made[key], f"{where}.{key}")
        ]
    if isinstance(shown, list) and isinstance(made, list):
        open_end = shown[-1:] == ["..."]
        parts = shown[:-1] if open_end else shown
        if len(parts) != len(made) and not open_end:
            return [f"{where}: {len(made)} entries"]
        return [line for a, b in zip(parts, made) for line in _differences(a, b, where)]
    described = isinstance(shown, str) and (" " in shown or "..." in shown)
    return [] if described or shown == made else [f"{where}: {made!r}"]


def test_record(record: Record) -> None:
    assert _differences(SHOWN["record.json"], record.to_json()) == []


def test_launch_file(record: Record) -> None:
    shown = SHOWN["launch.json"]
    made = launchfile.content(Site(), record, shown["cgroups"])
    assert _differences(shown, json.loads(json.dumps(made))) == []


@pytest.mark.parametrize(
    ("shown", "made"),
    [({"a": 1}, {}), ({}, {"a": 1}), ({"a": {"b": 1}}, {"a": {"b": 2}}), ([1], [1, 2])],
)
def test_differences_are_noticed(shown: Any, made: Any) -> None:
    assert _differences(shown, made)
