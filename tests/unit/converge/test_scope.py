# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import os
from typing import Any

import pytest
from sandlot.converge import scope
from sandlot.idmap import IdRange
from sandlot.sandbox import record
from sandlot.sandbox.record import PRESENT, REMOVING, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(str(tmp_path))


def save(site: Site, name: str, phase: str = PRESENT, **options: Any) -> None:
    spec = normalise({"name": name, "image": "busybox", **options})
    os.makedirs(site.state, exist_ok=True)
    record.save(site, Record(name, phase, "started", spec, IdRange(200000), ImageRef("b", "sha")))


def test_others_are_left_out_and_not_parsed(site, monkeypatch):
    for number in range(50):
        save(site, f"n{number}")
    loaded = []
    load = record.load
    monkeypatch.setattr(record, "load", lambda *words: loaded.append(words[1]) or load(*words))
    assert scope.around(site, ["n7"]) == {"n7"}
    assert set(loaded) == {"n7"}


@pytest.mark.parametrize(
    ("asked", "around"),
    [
        ("web", {"web", "db", "cron", "job"}),
        ("db", {"db", "web"}),
        ("cron", {"cron", "web", "db"}),
        ("job", {"job", "web"}),
        ("one", {"one", "two"}),
        ("two", {"two", "one", "three"}),
        ("alone", {"alone"}),
    ],
)
def test_needs_and_dependents_and_users_of_a_volume_belong_to_it(site, asked, around):
    save(site, "db")
    save(site, "job")
    save(site, "web", depends_on=["db", "job"])
    save(site, "cron", network_mode="container:web")
    save(site, "one", volumes=["data:/data"])
    save(site, "two", mounts=[{"type": "volume", "source": "data", "target": "/d"}])
    save(site, "three", depends_on=["two"])
    save(site, "alone")
    found = scope.around(site, [asked])
    assert found is not None and found >= around
    # What only mentions those that were found is not looked at.
    assert "alone" not in found or asked == "alone"


@pytest.mark.parametrize("left", ["phase", "text", "missing", "unknown"])
def test_all_of_the_host_is_looked_at_while_another_is_not_whole(site, left):
    save(site, "web")
    save(site, "other", REMOVING if left == "phase" else PRESENT)
    if left == "text":
        with open(site.sandbox("other").record, "w") as handle:
            handle.write("{")
    if left == "missing":
        os.unlink(site.sandbox("other").record)
    assert scope.around(site, ["nobody" if left == "unknown" else "web"]) is None
