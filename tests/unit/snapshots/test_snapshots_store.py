# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots on disk, without root."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sandlot import images
from sandlot.errors import SandlotError, StateError
from sandlot.idmap import IdRange
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.snapshots import model, store
from sandlot.snapshots.model import Snapshot
from sandlot.spec import normalise

TREE = "0f" * 32
NOON = 1795953600.0  # 2026-11-29T12:00:00Z


def a_record(site: Site, name: str = "web") -> Record:
    spec = normalise({"name": name, "image": "busybox", "command": ["true"]})
    image = ImageRef("busybox", TREE, (f"{site.images}/trees/{TREE}/root",))
    return Record(name, PRESENT, "started", spec, IdRange(200000), image)


def made(site: Site, identifier: str = "a", created: float = NOON) -> Snapshot:
    snapshot = Snapshot(
        "web",
        identifier,
        created,
        model.REBUILD,
        IdRange(200000),
        record=a_record(site),
        automatic=True,
        keep=3,
        max_age=86400,
        size=4096,
        files=2,
        volumes=("data",),
    )
    os.makedirs(store.stage(site, snapshot).upper)
    store.finish(site, snapshot)
    return snapshot


@pytest.fixture()
def site(tmp_path: Path) -> Site:
    os.makedirs(Site(str(tmp_path)).state)
    return Site(str(tmp_path))


def test_a_snapshot_is_read_back_as_it_was(site: Site) -> None:
    snapshot = made(site)
    assert store.load(site, "web", "a") == snapshot
    assert os.stat(site.snapshot("web", "a").directory).st_mode & 0o777 == 0o700
    without = replace(snapshot, id="b", record=None)
    os.makedirs(store.stage(site, without).upper)
    store.finish(site, without)
    assert store.load(site, "web", "b") == without


def test_snapshots_are_listed_oldest_first_and_a_broken_one_affects_no_other(site: Site) -> None:
    for identifier, created in (("b", NOON), ("a", NOON + 9), ("c", NOON - 9)):
        made(site, identifier, created)
    os.makedirs(f"{site.snapshots}/web/empty")
    os.makedirs(f"{site.snapshots}/db/bad")
    Path(f"{site.snapshots}/db/bad/snapshot.json").write_text('{"schema": 1, "sandbox": "db"}')
    loaded = store.load_all(site)
    assert [entry.name for entry in loaded.good] == ["web/c", "web/b", "web/a"]
    assert set(loaded.broken) == {"db/bad", "web/empty"}
    assert "remove the snapshot" in loaded.broken["db/bad"].hint


@pytest.mark.parametrize("wrong", [{"id": "b"}, {"ids": 3}, {"created": "x"}, {"record": {}}])
def test_a_wrong_field_makes_a_snapshot_unusable(site: Site, wrong: dict[str, object]) -> None:
    made(site)
    file = Path(site.snapshot("web", "a").file)
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong, "record": {"name": 1}}))
    with pytest.raises(StateError):
        store.load(site, "web", "a")


@pytest.mark.parametrize("name", ["missing", "../web", ".new-a", ""])
def test_no_other_path_is_a_snapshot(site: Site, name: str) -> None:
    made(site)
    with pytest.raises(SandlotError, match="has no snapshot"):
        store.load(site, "web", name)


def test_the_identifier_is_the_time_and_a_number_when_it_is_taken(site: Site) -> None:
    assert store.new_id(site, "web", NOON) == "20261129T120000Z"
    made(site, "20261129T120000Z")
    assert store.new_id(site, "web", NOON) == "20261129T120000Z-2"
    store.stage(site, replace(made(site, "x"), id="20261129T120000Z-2"))
    assert store.new_id(site, "web", NOON) == "20261129T120000Z-3"


def test_what_was_begun_is_seen_and_left_over_only_without_a_layer(site: Site) -> None:
    snapshot = replace(made(site), id="b")
    staged = store.stage(site, snapshot)
    assert store.staged(site, "web") == [snapshot]
    assert store.load_all(site).good == [replace(snapshot, id="a")]
    os.makedirs(staged.upper)
    store.abandon(site, "web", automatic=True)
    assert store.staged(site, "web") == [snapshot]
    store.finish(site, snapshot)
    begun = replace(snapshot, id="c")
    store.stage(site, begun)
    store.stage(site, replace(begun, id="d", automatic=False))
    store.abandon(site, "web")
    assert store.staged(site, "web") == [begun]
    store.abandon(site, "web", automatic=True)
    assert store.staged(site, "web") == []
    assert store.identifiers(site, "web") == ["a", "b"]


def test_a_removal_takes_the_last_directory_away(site: Site) -> None:
    made(site)
    made(site, "b")
    store.remove(site, "web", "a")
    assert store.identifiers(site, "web") == ["b"]
    store.remove(site, "web", "b")
    store.remove(site, "web", "b")
    assert not os.path.exists(site.snapshots)


def test_a_directory_without_snapshots_is_left_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last call of a removal has failed, or the run was killed before it."""
    made(site)

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(store, "_forget_empty", fail)
        store.remove(site, "web", "a")
    assert os.path.exists(f"{site.snapshots}/web") and store.leftovers(site)
    store.sweep(site, ())
    assert store.leftovers(site) == [] and not os.path.exists(site.snapshots)


def test_a_tree_that_a_snapshot_needs_is_in_use_by_no_image_of_that_name(site: Site) -> None:
    made(site)
    use = images.uses(site)[-1]
    assert (use.image, use.digest, use.start) == ("", TREE, 200000)
    Path(site.snapshot("web", "a").file).write_text("{")
    assert images.uses(site)[-1].digest == ""
