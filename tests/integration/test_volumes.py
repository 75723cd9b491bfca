# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes as a user has them: declared, used, changed, kept and removed."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from killing import killed_after
from sandlot import converge, volumes
from sandlot.converge import Result
from sandlot.errors import SpecError
from sandlot.host import install
from sandlot.kernel import mount_points, mountinfo
from sandlot.site import Site
from sandlot.spec import normalise_all
from sandlot.volumes import closing

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


def command(host: Deployment, *words: str) -> str:
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    argv = [host.paths.command, *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_inside(host: Deployment, name: str, script: str) -> str:
    return command(host, "exec", name, "--", "sh", "-c", script)


def test_a_volume_outlives_the_sandboxes_that_share_it(host: Deployment) -> None:
    """Each with ids of its own, and neither needs a declaration."""
    first, second = (
        sandbox(name, volumes=["data:/data"], security_profile="daemon") for name in "ab"
    )
    done = foreseen(host, None, first, second)
    assert "volume data: make, as a names it" in done.actions
    assert done.sandboxes["a"]["volumes"] == {"/data": "data"}
    run_inside(host, "a", "echo 1 >/data/row; chown 33:44 /data/row")
    assert run_inside(host, "b", "stat -c '%u %g' /data/row; cat /data/row") == "33 44\n1"
    options = mountinfo.stack(host.paths.volumes)[-1][0].options
    assert {"nosuid", "nodev"} <= options
    with pytest.raises(SpecError, match="is used by sandboxes a, b"):
        call(host, [{"name": "data", "state": "absent", "force": True}])
    foreseen(host, [], purge=True, purge_volumes=False)
    assert mountinfo.stack(host.paths.volumes) == []
    status = (data(host.paths, "data") / "row").stat()
    assert (status.st_uid, status.st_gid) == (33, 44)
    foreseen(host, [{"name": "data"}], first)
    assert run_inside(host, "a", "cat /data/row") == "1"
    foreseen(host, [], purge=True, purge_volumes=True)
    assert not os.path.exists(host.paths.volumes)


def test_an_empty_volume_takes_over_what_the_root_has(host: Deployment) -> None:
    plain = sandbox("web", security_profile="daemon")
    host.converged(plain)
    run_inside(host, "web", "mkdir -m 750 /db; chown 5:6 /db; echo 1 >/db/row")
    mounted = [
        {**plain, "volumes": [f"{name}:/db{words}"]}
        for name, words in (("filled", ""), ("empty", ":nocopy"))
    ]
    for spec in mounted:
        foreseen(host, None, spec)
    root = data(host.paths, "filled")
    status = root.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (5, 6, 0o750)
    assert (root / "row").read_text() == "1\n"
    assert list(data(host.paths, "empty").iterdir()) == []
    assert data(host.paths, "empty").stat().st_uid == 0


def test_a_copy_that_was_killed_is_made_again(host: Deployment) -> None:
    plain = sandbox("web", security_profile="daemon")
    host.converged(plain)
    run_inside(host, "web", "mkdir /db; echo 1 >/db/row")
    call(host, [{"name": "data"}])
    known = volumes.load(host.paths, "data")
    assert known is not None
    volumes.save(host.paths, replace(known, copying=True))
    (data(host.paths, "data") / "half").write_text("")
    foreseen(host, None, {**plain, "volumes": ["data:/db"]})
    assert sorted(os.listdir(data(host.paths, "data"))) == ["row"]


def test_a_host_without_sandlot_keeps_its_volumes(own_host: Deployment) -> None:
    """A removal of the runtime says so, and a later deploy finds them."""
    spec = sandbox("web", volumes=["data:/data"])
    foreseen(own_host, [{"name": "sized", "size": "16m"}], spec)
    run_inside(own_host, "web", "echo 1 >/data/row")
    listed = json.loads(command(own_host, "volumes", "--format", "json"))
    assert [(entry["name"], entry["used_by"]) for entry in listed] == [
        *(("data", ["web"]), ("sized", [])),
    ]
    assert listed[0]["used"] == 4096 and listed[1]["size"] == 16 << 20
    assert command(own_host, "volumes").splitlines()[1].split()[:4] == ["data", "-", "4.0K", "web"]
    call(own_host, None, purge=True)
    foreseen_removal = install.absent(own_host.paths, check=True)
    done = install.absent(own_host.paths, check=False)
    assert done.actions == foreseen_removal.actions
    assert done.actions[-1].endswith("but keep the volumes data, sized")
    assert mount_points.within(own_host.paths.volumes) == []
    left = set(os.listdir(own_host.paths.state)) - {"projects.json"}
    assert left == {"volumes", "volumes.json"}
    assert install.absent(own_host.paths, check=False).actions == []
    own_host.set_up()
    foreseen(own_host, None, spec)
    assert run_inside(own_host, "web", "cat /data/row") == "1"
    foreseen(own_host, [{"name": "sized", "state": "absent", "force": True}], spec)


def test_a_boot_finds_volumes_as_they_were(host: Deployment) -> None:
    host.converged(sandbox("web", volumes=["data:/data"]))
    run_inside(host, "web", "echo 1 >/data/row")
    host.reboot()
    closing.release(host.paths)
    assert not converge.up(host.paths).failed
    assert run_inside(host, "web", "cat /data/row") == "1"
    assert closing.is_closed(host.paths)
    assert host.run(sandbox("web", volumes=["data:/data"])).actions == []


def test_a_run_that_is_killed_anywhere_gives_a_volume_its_content(host: Deployment) -> None:
    """The next run goes on; nothing is copied over what the sandbox wrote since."""
    plain = sandbox("web")
    with_volume = {**plain, "volumes": ["data:/db"]}
    host.converged(plain)
    run_inside(host, "web", "mkdir /db; echo 1 >/db/row")
    gone = [{"name": "data", "state": "absent", "force": True}]
    stride = int(os.environ.get("SANDLOT_STRIDE", "3"))
    for number in range(stride, 100, stride):
        if not killed_after(number, lambda: host.run(with_volume)):
            break
        host.converged(with_volume)
        assert run_inside(host, "web", "cat /db/row; echo 2 >/db/row") == "1", number
        assert host.run(with_volume, restart=True).failed == {}
        assert run_inside(host, "web", "cat /db/row") == "2", number
        call(host, gone, plain)
    assert number > 5
