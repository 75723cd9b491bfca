# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Damaged state, two runs at once, a full disk: explained, and repaired by the next run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox, short_directory, tree
from sandlot import converge, lock
from sandlot.errors import HostError, SandlotError, StateError
from sandlot.host import probe
from sandlot.kernel import mounts
from sandlot.network.bridge import nft

pytestmark = needs_root

ENGINE = Path(__file__).resolve().parent.parent.parent / "module_utils"
RUN = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from sandlot import converge
from sandlot.site import Site
from sandlot.spec import normalise_all

specs = normalise_all(json.loads(sys.argv[3]))
result = converge.converge(Site(sys.argv[2]), converge.request(specs, purge=True))
sys.exit(1 if result.failed else 0)
"""


DAMAGES = {
    "empty": b"",
    "truncated": b'{"schema": 1, "name": "a", "phase": "pres',
    "garbage": b"\x00\xff\xfe garbage",
    "wrong type": b"[1, 2, 3]",
    "newer": b'{"schema": 99, "name": "a"}',
    "no fields": b'{"schema": 1}',
    "another name": b"RENAMED",
    "unknown phase": b"PHASE",
}


def damage(host: Deployment, name: str, kind: str) -> None:
    path = Path(host.paths.sandbox(name).record)
    content = DAMAGES[kind]
    data = json.loads(path.read_text())
    if content == b"RENAMED":
        content = json.dumps({**data, "name": "z"}).encode()
    if content == b"PHASE":
        content = json.dumps({**data, "phase": "elsewhere"}).encode()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_record_concerns_its_sandbox_only(host: Deployment, kind: str) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    address, pid = host.info("a")["addresses"][0], host.pid("a")
    damage(host, "a", kind)
    states = {entry["name"]: entry["state"] for entry in converge.info(host.paths)}
    assert states == {"a": "broken", "b": "running"}
    with pytest.raises(StateError, match="record.json") as caught:
        host.run(sandbox("a"), sandbox("b"))
    assert caught.value.hint
    # Others go on, and nobody is given what the damaged one has.
    host.converged(sandbox("b"), sandbox("c"))
    assert host.pid("a") == pid
    assert host.info("c")["addresses"] != [address]
    host.converged(sandbox("b"), purge=True)
    assert not os.path.exists(host.paths.sandbox("a").state)
    assert not os.path.exists(f"/proc/{pid}/ns")
    host.converged(sandbox("a"), sandbox("b"))


def test_a_damaged_launch_file_is_written_again(host: Deployment) -> None:
    host.converged(sandbox("a"))
    pid = host.pid("a")
    Path(host.paths.sandbox("a").launch).write_bytes(b"{")
    assert host.converged(sandbox("a")).actions == ["a: write launch.json"]
    assert host.pid("a") == pid


def test_damaged_networks_are_an_explained_error(host: Deployment) -> None:
    Path(host.paths.networks_file).write_bytes(b"{")
    with pytest.raises(StateError, match=r"networks\.json"):
        host.run(sandbox("a"))
    host.declare()


def test_leftovers_without_a_record_are_purged(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    os.unlink(host.paths.sandbox("a").record)
    shutil.rmtree(host.paths.sandbox("a").state)
    host.converged(sandbox("b"))
    assert os.path.exists(host.paths.sandbox("a").run)
    result = host.converged(sandbox("b"), purge=True)
    assert "a: remove" in result.actions
    assert not os.path.exists(host.paths.sandbox("a").run)


def test_two_runs_at_once(host: Deployment) -> None:
    """Neither loses the other's sandboxes, and the same names end up the same."""
    run = RUN.replace(", purge=True", "")
    sets = [[sandbox("a"), sandbox("both")], [sandbox("b"), sandbox("both")]] * 2
    runs = [
        subprocess.Popen([sys.executable, "-c", run, ENGINE, host.paths.root, json.dumps(specs)])
        for specs in sets
    ]
    assert [each.wait() for each in runs] == [0] * len(runs)
    everyone = [sandbox("a"), sandbox("b"), sandbox("both")]
    assert host.run(*everyone).actions == []
    found = [host.info(entry["name"]) for entry in everyone]
    assert len({entry["addresses"][0] for entry in found}) == len(found)
    assert len({entry["ids"]["uid"] for entry in found}) == len(found)


def test_a_run_that_waits_too_long_says_so(host: Deployment) -> None:
    with lock.exclusive(host.paths):
        with pytest.raises(SandlotError, match="another sandlot run"):
            with lock.exclusive(host.paths, wait=0.0):
                pass
        assert host.run(sandbox("a"), check=True).changed


@contextlib.contextmanager
def host_with_small_disk() -> Iterator[Deployment]:
    with short_directory() as root:
        disk = f"{root}/var/lib"
        os.makedirs(disk)
        mounts.mount("tmpfs", disk, "tmpfs", data="size=8m,mode=755")
        deployment = Deployment(root)
        try:
            deployment.prepare()
            yield deployment
        finally:
            deployment.teardown()
            mounts.umount(disk, 0)


@contextlib.contextmanager
def filled(directory: str, *, leave: int) -> Iterator[None]:
    """The disk with ``leave`` bytes left."""
    path = Path(directory, "filler")
    status = os.statvfs(directory)
    with path.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    yield
    path.unlink()


def test_a_full_disk() -> None:
    """However little space is left, a run does it or says why not; with space the next one does."""
    with host_with_small_disk() as host:
        first, second = sandbox("first"), sandbox("second")
        host.converged(first)
        refused = 0
        for pages in range(24):
            with filled(host.paths.state, leave=pages * 4096):
                refused += explained(host, [first, second])
            assert host.info("first")["state"] == "running"
            host.converged(first, second)
            host.converged(first, purge=True)
        assert 0 < refused < 24


def explained(host: Deployment, specs: list[dict[str, Any]]) -> bool:
    """Whether the run failed, and then for want of space."""
    try:
        result = host.run(*specs)
    except SandlotError as error:
        assert "No space left" in str(error)
        return True
    assert all("space" in message for message in result.failed.values()), result.failed
    return bool(result.failed)


def without_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "_program", lambda: None)


def without_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    missing = {"pyroute2"}
    lookup = lambda name, package=None: None if name in missing else found(name, package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", lookup)


def without_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "overlay", lambda: False)


def without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "user_namespaces", lambda: 0)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (without_nft, "nft was not found; install the package nftables"),
        (without_pyroute2, "pyroute2 was not found; install the package python3-pyroute2"),
        (without_overlay, "no overlayfs; boot a kernel with overlayfs"),
        (without_user_namespaces, "user namespaces are disabled on this host; set the sysctl"),
    ],
)
def test_what_the_host_lacks_is_named_before_any_change(
    host: Deployment, monkeypatch: pytest.MonkeyPatch, remove: Any, message: str
) -> None:
    with monkeypatch.context() as patched:
        remove(patched)
        before = tree(host.paths.root)
        with pytest.raises(HostError) as caught:
            host.run(sandbox("a"))
        assert message in str(caught.value)
        new = {line.split()[0] for line in tree(host.paths.root) if line not in before}
        assert new <= {host.paths.lock, host.paths.state}
    host.converged(sandbox("a"))
