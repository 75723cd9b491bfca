# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""No edit destroys: what a run drops becomes a snapshot, which has the old files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from killing import killed_after, killed_at
from sandlot import images
from sandlot.errors import SandlotError
from sandlot.host import install, probe
from sandlot.plan import apply_all
from sandlot.sandbox import health
from sandlot.sizes import places
from sandlot.snapshots import store
from sandlot.snapshots.model import Snapshot

pytestmark = needs_root


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilds here need no time to prove themselves."""
    monkeypatch.setattr(health, "STEADY_SECONDS", 0.0)


def write(host: Deployment, name: str, text: str = "mine", file: str = "data") -> None:
    Path(f"/proc/{host.pid(name)}/root/{file}").write_text(text)


def snapshots(host: Deployment) -> list[Snapshot]:
    loaded = store.load_all(host.paths)
    assert not loaded.broken
    return loaded.good


def kept(host: Deployment, snapshot: Snapshot, file: str = "data") -> str:
    return Path(host.paths.snapshot(snapshot.sandbox, snapshot.id).upper, file).read_text()


def test_a_rebuild_sets_the_layer_aside(host: Deployment) -> None:
    spec = sandbox("a", recreate=True)
    host.converged(sandbox("a"))
    write(host, "a")
    upper = os.stat(host.paths.sandbox("a").upper)
    checked = host.run(spec, check=True)
    result = host.run(spec)
    assert result.actions == checked.actions and result.diff == checked.diff
    assert "a: set its layer aside as a snapshot, 4 kB in 1 file" in result.actions
    (snapshot,) = snapshots(host)
    assert kept(host, snapshot) == "mine"
    paths = host.paths.snapshot("a", snapshot.id)
    assert os.listdir(paths.layer) == ["upper"]
    moved = os.stat(paths.upper)
    assert (moved.st_ino, moved.st_uid) == (upper.st_ino, upper.st_uid)
    assert result.sandboxes["a"]["set_aside"]["id"] == snapshot.id
    assert (snapshot.reason, snapshot.automatic, snapshot.keep) == ("recreate", True, 3)
    assert host.info("a")["snapshots"][0]["id"] == snapshot.id
    assert host.run(sandbox("a")).actions == []


def test_a_purge_keeps_and_a_named_removal_does_not(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"), sandbox("c"))
    for name in ("a", "b"):
        write(host, name, name)
    checked = host.run(sandbox("c"), purge=True, check=True)
    result = host.run(sandbox("c"), purge=True)
    assert result.actions == checked.actions and not result.failed
    assert [entry.sandbox for entry in snapshots(host)] == ["a", "b"]
    assert kept(host, snapshots(host)[0]) == "a"
    assert not os.path.exists(host.paths.sandbox("a").state)
    host.converged(sandbox("a"))
    write(host, "a", "again")
    gone: dict[str, Any] = {"name": "a", "state": "absent"}
    checked = host.run(gone, check=True)
    result = host.run(gone)
    assert result.actions == checked.actions
    assert "a: remove its layer for good, 4 kB in 1 file" in result.actions
    assert result.sandboxes["a"]["layer_removed"]["files"] == 1
    assert len(snapshots(host)) == 2


def edited(host: Deployment, snapshot: Snapshot, **fields: Any) -> None:
    file = Path(host.paths.snapshot(snapshot.sandbox, snapshot.id).file)
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_the_oldest_go_by_number_and_age(host: Deployment) -> None:
    spec = sandbox("a", snapshot_keep=2)
    host.converged(spec)
    for number in range(3):
        write(host, "a", str(number))
        checked = host.run(spec, recreate=True, check=True)
        result = host.run(spec, recreate=True)
        assert result.actions == checked.actions
    assert [kept(host, entry) for entry in snapshots(host)] == ["1", "2"]
    assert any("snapshot_keep is 2" in action for action in result.actions)
    oldest = snapshots(host)[0]
    edited(host, oldest, created=oldest.created - 2 * 86400)
    aged = {**spec, "snapshot_max_age": "1d"}
    result = host.converged(aged)
    assert [action for action in result.actions if "too old" in action]
    assert [kept(host, entry) for entry in snapshots(host)] == ["2"]
    result = host.converged({**aged, "snapshot_keep": 0})
    assert snapshots(host) == [] and not os.path.exists(host.paths.snapshots)
    write(host, "a")
    result = host.run({**spec, "snapshot_keep": 0}, recreate=True)
    assert "a: remove its layer for good, 4 kB in 1 file" in result.actions
    assert snapshots(host) == []


def test_a_purge_of_snapshots_takes_those_of_sandboxes_that_are_gone(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    for name in ("a", "b"):
        write(host, name)
    host.run(sandbox("a"), sandbox("b"), recreate=True)
    write(host, "b")
    with pytest.raises(SandlotError, match=r"there are sandboxes"):
        install.absent(host.paths, check=False)
    checked = host.run(sandbox("a"), purge=True, purge_snapshots=True, check=True)
    result = host.run(sandbox("a"), purge=True, purge_snapshots=True)
    assert result.actions == checked.actions
    assert "b: remove its layer for good, 4 kB in 1 file" in result.actions
    assert [entry.sandbox for entry in snapshots(host)] == ["a"]
    assert host.run(sandbox("a"), purge=True, purge_snapshots=True).actions == []
    host.run(purge=True)
    with pytest.raises(SandlotError, match="there are snapshots on this host: a/20.*purge_snap"):
        install.absent(host.paths, check=False)


def test_a_broken_snapshot_affects_no_other(host: Deployment) -> None:
    host.converged(sandbox("a"))
    for number in range(2):
        write(host, "a", str(number))
        host.run(sandbox("a"), recreate=True)
    broken, good = snapshots(host)
    Path(host.paths.snapshot("a", broken.id).file).write_text("{")
    shown = host.info("a")["snapshots"]
    assert [entry["id"] for entry in shown] == [good.id, broken.id] and "error" in shown[1]
    write(host, "a", "2")
    assert not host.run(sandbox("a"), recreate=True).failed
    assert set(store.load_all(host.paths).broken) == {broken.name}
    host.run(purge=True, purge_snapshots=True)
    assert not os.path.exists(host.paths.snapshots)


@pytest.mark.parametrize("damage", ["lost", "broken"])
def test_a_layer_without_a_usable_record_is_kept(host: Deployment, damage: str) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    write(host, "a")
    ids = host.info("a")["ids"]["uid"]
    record = Path(host.paths.sandbox("a").record)
    record.unlink() if damage == "lost" else record.write_text("{")
    result = host.run(sandbox("b"), purge=True)
    assert not result.failed
    (snapshot,) = snapshots(host)
    assert snapshot.record is None and snapshot.ids.start == ids
    assert kept(host, snapshot) == "mine"


def test_a_layer_whose_record_is_lost_is_kept_when_it_is_made_again(host: Deployment) -> None:
    host.converged(sandbox("a"))
    write(host, "a")
    os.unlink(host.paths.sandbox("a").record)
    assert not host.run(sandbox("a")).failed
    assert [kept(host, entry) for entry in snapshots(host)] == ["mine"]


def test_what_is_rolled_back_leaves_no_snapshot(host: Deployment) -> None:
    host.converged(sandbox("a"))
    write(host, "a")
    result = host.run(sandbox("a", command=["/does/not/exist"]), recreate=True)
    assert list(result.failed) == ["a"] and "set_aside" not in result.sandboxes["a"]
    assert not os.path.exists(host.paths.snapshots)
    assert host.inside("a", "/data") == "mine"


def test_the_copy_of_an_image_stays_for_a_snapshot(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "maps_ids", lambda directory: False)
    host.converged(sandbox("a"))
    write(host, "a")
    host.run(purge=True)
    (snapshot,) = snapshots(host)
    copies = list(Path(host.paths.images).glob("trees/*/shifted-*"))
    assert [copy.name for copy in copies] == [f"shifted-{snapshot.ids.start}"]
    apply_all(images.prune_operations(host.paths))
    assert copies[0].exists()
    store.remove(host.paths, "a", snapshot.id)
    apply_all(images.prune_operations(host.paths))
    assert not copies[0].exists()


# -- killed


def assert_kept_once(host: Deployment, name: str) -> None:
    """The file is in the layer of the sandbox or in one whole snapshot."""
    assert store.leftovers(host.paths) == []
    layer = Path(host.paths.sandbox(name).upper, "data")
    copies = [kept(host, entry) for entry in snapshots(host)]
    assert [*copies, *([layer.read_text()] if layer.exists() else [])] == ["mine"]


def killed_runs(host: Deployment, kill: Any, *, purge: bool, stride: int = 1) -> Iterator[int]:
    """Yield after each killed run, of which the caller makes what a user might."""
    number, killed = 0, True
    specs = [sandbox("b")] if purge else [sandbox("a"), sandbox("b")]
    while killed:
        number += stride
        host.run(sandbox("b"), purge=True, purge_snapshots=True)
        host.converged(sandbox("a"), sandbox("b"))
        write(host, "a")
        killed = kill(number, lambda: host.run(*specs, purge=purge, recreate=not purge))
        yield number


def test_killed_after_any_step_of_a_purge(host: Deployment) -> None:
    runs = 0
    for number in killed_runs(host, killed_after, purge=True, stride=2):
        runs = number
        if number % 3 == 0:
            assert not host.run(sandbox("a"), sandbox("b")).failed
        elif number % 3 == 1:
            assert not host.run(sandbox("b", labels={"n": str(number)})).failed
        else:
            host.converged(sandbox("b"), purge=True)
            assert not os.path.exists(host.paths.sandbox("a").state)
        assert_kept_once(host, "a")
    assert runs > 8


@pytest.mark.parametrize("purge", [True, False], ids=["purge", "rebuild"])
def test_killed_after_any_rename_that_sets_aside(host: Deployment, purge: bool) -> None:
    def kill(number: int, action: Any) -> bool:
        return killed_at(number, "rename", [places, store], action)

    specs = [sandbox("b")] if purge else [sandbox("a"), sandbox("b")]
    runs = 0
    for number in killed_runs(host, kill, purge=purge):
        runs = number
        host.converged(*specs, purge=purge)
        assert_kept_once(host, "a")
    assert runs > 2


def test_a_rebuild_that_was_killed_is_purged(host: Deployment) -> None:
    """The layer that counts may be in either slot."""
    runs = 0
    for number in killed_runs(host, killed_after, purge=False, stride=3):
        runs = number
        host.converged(sandbox("b"), purge=True)
        assert_kept_once(host, "a")
    assert runs > 8
