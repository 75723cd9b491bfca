# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Cases of (request, record, decision) -> the fate of a layer."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sandlot.converge import drops
from sandlot.converge.decide import ABSENT, Decision, Desired, Observed
from sandlot.converge.resolve import Request
from sandlot.idmap import IdRange
from sandlot.plan import Change
from sandlot.sandbox.record import PRESENT, REMOVING, ImageRef, Record
from sandlot.site import Site
from sandlot.snapshots import aside
from sandlot.snapshots.aside import Drop
from sandlot.spec import Difference, normalise

NAMED = Request((Desired("web", ABSENT),))
PURGE = Request((), purge=True)
PURGE_ALL = Request((), purge=True, purge_snapshots=True)
IMAGE = Difference("image", "a", "b", Change.REBUILD)


def record(name: str = "web", phase: str = PRESENT, **options: Any) -> Record:
    spec = normalise({"name": name, "image": "busybox", "command": ["true"], **options})
    return Record(name, phase, "started", spec, IdRange(200000), ImageRef("busybox", "0f" * 32))


@pytest.fixture()
def site(tmp_path: Path) -> Site:
    return Site(str(tmp_path))


def layer(site: Site, name: str = "web", *, files: int = 1) -> None:
    os.makedirs(site.sandbox(name).upper)
    os.makedirs(site.sandbox(name).work)
    for number in range(files):
        Path(site.sandbox(name).upper, f"f{number}").write_text("mine")


def fate(
    site: Site,
    request: Request,
    old: Record | None,
    decision: Decision | None = None,
    *,
    whole: bool = True,
) -> Drop | None:
    name = old.name if old else "web"
    targets = {name: SimpleNamespace(record=decision.record)} if decision else {}
    resolved: Any = SimpleNamespace(targets=targets, removed=() if decision else (name,))
    observed: Any = SimpleNamespace(
        records=SimpleNamespace(good={name: old} if old else {}),
        sandboxes={name: Observed(old, layer=whole)},
    )
    decisions = {name: decision} if decision else {}
    return drops.drops(site, request, resolved, decisions, observed).get(name)


def shown(drop: Drop | None) -> str:
    if drop is None:
        return "nothing"
    reason = drop.snapshot.reason if drop.snapshot else ""
    return f"kept: {reason}" if drop.is_kept else "lost" if drop.is_lost else "empty"


REMOVED = [
    (NAMED, record(), "lost"),
    (PURGE, record(), "kept: purge"),
    (PURGE, record(snapshot_keep=0), "lost"),
    (PURGE, None, "kept: purge"),
    (PURGE_ALL, record(), "lost"),
    # A named removal that was killed, and goes on.
    (PURGE, record(phase=REMOVING), "lost"),
    (PURGE, record(name="setup-0123456789abcdef0123456789abcdef"), "nothing"),
]


@pytest.mark.parametrize(("request_", "old", "expected"), REMOVED)
def test_removed(site: Site, request_: Request, old: Record | None, expected: str) -> None:
    name = old.name if old else "web"
    assert fate(site, request_, old) is None
    layer(site, name)
    assert shown(fate(site, request_, old)) == expected


def test_a_purge_that_was_killed_goes_on_to_keep(site: Site) -> None:
    layer(site)
    drop = fate(site, PURGE, record())
    assert drop is not None and drop.snapshot is not None
    aside.begin(site, drop.snapshot)
    assert shown(fate(site, PURGE, record(phase=REMOVING))) == "kept: purge"
    assert shown(fate(site, NAMED, record(phase=REMOVING))) == "lost"


@pytest.mark.parametrize(
    ("decision", "whole", "expected"),
    [
        (Decision("web", record(), rebuild="recreate", next_slot=True), True, "kept: recreate"),
        (Decision("web", record(), rebuild="its layer is missing"), False, "kept: rebuild"),
        (Decision("web", record(), rebuild="x", differences=(IMAGE,)), True, "kept: image"),
        (Decision("web", record(), new=True), True, "kept: rebuild"),
        (Decision("web", record(snapshot_keep=0), rebuild="recreate"), True, "lost"),
        (Decision("web", record(), start="restart: asked"), True, "nothing"),
    ],
)
def test_replaced(site: Site, decision: Decision, whole: bool, expected: str) -> None:
    layer(site)
    assert shown(fate(site, Request(()), record(), decision, whole=whole)) == expected


def test_the_options_of_the_new_spec_count(site: Site) -> None:
    layer(site)
    new = record(snapshot_keep=7, snapshot_max_age="1d")
    drop = fate(site, Request(()), record(snapshot_keep=0), Decision("web", new, rebuild="x"))
    assert drop is not None and drop.snapshot is not None
    assert (drop.snapshot.keep, drop.snapshot.max_age) == (7, 86400)
    assert drop.snapshot.record == record(snapshot_keep=0)


def test_an_empty_layer_is_not_kept_and_not_told(site: Site) -> None:
    layer(site, files=0)
    drop = fate(site, PURGE, record())
    assert shown(drop) == "empty" and drops.lines(drop) == []
    assert fate(site, NAMED, record()) is not None


def test_lines(site: Site) -> None:
    layer(site, files=2)
    Path(site.sandbox("web").launch).write_text(json.dumps({"schema": 1}))
    (kept,) = drops.lines(fate(site, PURGE, record()))
    assert kept.describe() == "web: set its layer aside as a snapshot, 8 kB in 2 files"
    (lost,) = drops.lines(fate(site, NAMED, record()))
    assert lost.describe() == "web: remove its layer for good, 8 kB in 2 files"
    drop = fate(site, PURGE, record())
    assert drop is not None
    large = replace(drop, contents=replace(drop.contents, size=10_737_400_000))
    assert drops.lines(large)[0].describe().endswith(", 10.7 GB in 2 files")
    more = replace(drop, contents=replace(drop.contents, size=12_300_000, more=True))
    assert drops.lines(more)[0].describe().endswith(", over 12.3 MB in over 2 files")
