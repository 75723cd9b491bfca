# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots on a small disk: old ones make room, and without room nothing is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, needs_root, sandbox, short_directory
from sandlot import converge
from sandlot.kernel import mounts
from sandlot.sandbox import health
from sandlot.snapshots import store

pytestmark = needs_root
MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture(scope="module")
def small() -> Iterator[Deployment]:
    """A host with 16 MiB for its state."""
    with short_directory() as root:
        os.makedirs(f"{root}/var/lib")
        mounts.mount("tmpfs", f"{root}/var/lib", "tmpfs", data=f"size={SIZE},mode=755")
        host = Deployment(root)
        try:
            host.prepare()
            yield host
        finally:
            host.teardown()
            mounts.umount(f"{root}/var/lib", 0)


@pytest.fixture()
def host(small: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setattr(health, "STEADY_SECONDS", 0.0)
    yield small
    assert not small.run(purge=True, purge_snapshots=True).failed


@contextlib.contextmanager
def left(host: Deployment, size: int) -> Iterator[None]:
    """The disk with ``size`` bytes left."""
    status = os.statvfs(host.paths.state)
    path = Path(host.paths.root, "var/lib/filler")
    with path.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, status.f_bavail * status.f_frsize - size)
    yield
    path.unlink()


def write(host: Deployment, name: str, size: int) -> None:
    Path(f"/proc/{host.pid(name)}/root/data").write_bytes(b"x" * size)


def kept(host: Deployment) -> list[str]:
    return [entry.name for entry in store.load_all(host.paths).good]


def three(host: Deployment) -> list[str]:
    """Two snapshots of one sandbox and one of another, oldest first."""
    for name in ("a", "a", "b"):
        host.converged(sandbox(name))
        write(host, name, 256 << 10)
        assert not host.run(sandbox(name), recreate=True).failed
    return kept(host)


@pytest.mark.parametrize("by", ["run", "boot"])
def test_the_oldest_go_when_space_is_low_but_no_newest(host: Deployment, by: str) -> None:
    oldest, newer, other = three(host)
    assert host.run(sandbox("a")).actions == []
    with left(host, SIZE // 10 - (300 << 10)):
        assert host.run(sandbox("a")).actions == []
        if by == "run":
            changed = sandbox("a", labels={"x": "y"})
            checked = host.run(changed, check=True)
            result = host.run(changed)
            assert result.actions == checked.actions
        else:
            result = converge.up(host.paths)
        assert not result.failed
        line = f"snapshot {oldest}: remove 262 kB in 1 file: space is low"
        assert line in result.actions
        assert kept(host) == [newer, other]


def test_without_room_nothing_is_set_aside_and_nothing_lost(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"), sandbox("c", depends_on=["b"]))
    for name in ("a", "c"):
        write(host, name, 4096)
    pids = {name: host.pid(name) for name in ("a", "b", "c")}
    with left(host, 0):
        result = host.run(sandbox("b"), purge=True)
        assert set(result.failed) == {"a", "c"}
        for message in result.failed.values():
            assert "left alone" in message and "no space is left in" in message
            assert "sandlot snapshots" in message and "state: absent" in message
        result = host.run(sandbox("a"), recreate=True)
        assert "the old one was left alone" in result.failed["a"]
        assert {name: host.pid(name) for name in pids} == pids
        assert kept(host) == []
        # A named removal needs no space.
        result = host.run({"name": "c", "state": "absent"})
        assert not result.failed
        assert "c: remove its layer for good, 4 kB in 1 file" in result.actions
    assert not host.run(sandbox("b"), purge=True).failed
    assert [name.split("/")[0] for name in kept(host)] == ["a"]


def test_of_a_purge_without_room_a_dependency_stays_too(host: Deployment) -> None:
    host.converged(sandbox("b"), sandbox("c", depends_on=["b"]))
    write(host, "c", 4096)
    with left(host, 0):
        result = host.run(purge=True)
        assert "c" in result.failed
        assert host.pid("b") and host.pid("c")
