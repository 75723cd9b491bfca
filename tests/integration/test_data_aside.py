# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""No edit destroys: what a run drops becomes a snapshot, which has the old files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converge_fixtures import Deployment, needs_root, sandbox
from sandlot.snapshots import store
from sandlot.snapshots.model import Snapshot

pytestmark = needs_root


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
