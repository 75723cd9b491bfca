# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes as a user has them: declared, used, changed, kept and removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root
from sandlot import converge, volumes
from sandlot.converge import Result
from sandlot.errors import SpecError
from sandlot.site import Site
from sandlot.spec import normalise_all

pytestmark = needs_root
Json = dict[str, Any]


def call(host: Deployment, listed: list[Json] | None, *specs: Json, **options: Any) -> Result:
    request = converge.request(
        normalise_all(list(specs)) if specs or options.get("purge") else None,
        volumes=None if listed is None else volumes.normalise(listed),
        **options,
    )
    return converge.converge(host.paths, request)


def foreseen(host: Deployment, listed: list[Json] | None, *specs: Json, **options: Any) -> Result:
    """A run that does what its check says, after which there is nothing to do."""
    checked = call(host, listed, *specs, check=True, **options)
    done = call(host, listed, *specs, **options)
    assert not done.failed, done.failed
    assert (checked.actions, checked.diff) == (done.actions, done.diff)
    again = call(host, listed, *specs, **options)
    assert (again.actions, again.changed) == ([], False)
    return done


def data(site: Site, name: str) -> Path:
    return Path(site.volume(name).data)


def test_a_volume_from_nothing_to_nothing(host: Deployment) -> None:
    done = foreseen(host, [{"name": "data", "labels": {"backup": "daily"}}])
    assert done.actions == ["volume data: make"]
    assert done.volumes is not None and done.volumes["data"]["labels"] == {"backup": "daily"}
    files = data(host.paths, "data")
    assert files.stat().st_mode & 0o7777 == 0o755
    closed = (files.parent, files.parent.parent)
    assert [path.stat().st_mode & 0o7777 for path in closed] == [0o700, 0o700]
    assert foreseen(host, [{"name": "data"}]).actions == ["volume data: change labels"]
    (files / "row").write_text("1")
    gone = {"name": "data", "state": "absent"}
    with pytest.raises(SpecError, match="volumes: 'data' holds data.*force"):
        call(host, [gone], check=True)
    assert foreseen(host, [{**gone, "force": True}]).actions == ["volume data: remove"]
    assert not os.path.exists(host.paths.volumes)


def test_unlisted_volumes_stay_unless_they_are_purged(host: Deployment) -> None:
    call(host, [{"name": "old"}, {"name": "kept"}])
    (data(host.paths, "old") / "row").write_text("1")
    foreseen(host, [{"name": "kept"}], purge=True)
    assert set(volumes.load_all(host.paths).good) == {"kept", "old"}
    done = foreseen(host, [{"name": "kept"}], purge_volumes=True)
    assert done.actions == ["volume old: remove"]
    assert foreseen(host, [], purge_volumes=True).actions == ["volume kept: remove"]
