# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sizes of directories: the step that is due, the way of the host, numbers of projects."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandlot.errors import HostError, SpecError
from sandlot.kernel import filesystems, loop_devices, quotas
from sandlot.site import Site
from sandlot.sizes import (
    FILE,
    LIVE,
    OFFLINE,
    PROJECT,
    Bound,
    Due,
    Place,
    bounds,
    is_mounted,
    projects,
    ways,
)
from sandlot.sizes.model import inodes, readable

M = 1 << 20
PLACE = Place("/nowhere/data", "/nowhere/fs.img")

STEPS = [
    # bound now, size, step
    (Bound(), None, None),
    (Bound(), 64 * M, Due("limit to 64m", OFFLINE)),
    (Bound(PROJECT, 64 * M), 64 * M, None),
    (Bound(PROJECT, 64 * M), 64 * M - 1, None),
    (Bound(PROJECT, 64 * M), 128 * M, Due("limit to 128m")),
    (Bound(PROJECT, 64 * M), 32 * M, Due("limit to 32m")),
    (Bound(PROJECT, 64 * M), None, Due("withdraw the limit")),
    (Bound(PROJECT, None), None, None),
    # Somebody withdrew the limit (setquota), or set another one.
    (Bound(PROJECT, None), 64 * M, Due("limit to 64m")),
    (Bound(PROJECT, 64 * M, ready=False), 64 * M, Due("limit to 64m")),
    (Bound(FILE, 64 * M), 64 * M, None),
    (Bound(FILE, 64 * M), 64 * M - 1, None),
    (Bound(FILE, 64 * M, ready=False), 64 * M, Due("mount the file system")),
    (Bound(FILE, 64 * M), 96 * M, Due("grow from 64m to 96m")),
    (Bound(FILE, 64 * M, grows=False), 96 * M, Due("grow from 64m to 96m", OFFLINE)),
    (Bound(FILE, 64 * M), 32 * M, Due("shrink from 64m to 32m", OFFLINE)),
    (
        Bound(FILE, 64 * M, failed=True),
        64 * M,
        Due("mount the file system again, which an error has made read-only", OFFLINE),
    ),
    (
        Bound(FILE, 64 * M),
        None,
        Due("move out of the file system that limits it", OFFLINE),
    ),
]


@pytest.mark.parametrize(("bound", "size", "step"), STEPS)
def test_step(bound: Bound, size: int | None, step: Due | None) -> None:
    assert bounds.due(bound, size) == step


def test_steps_that_copy_need_it_idle() -> None:
    assert {step.needs for dummy, size, step in STEPS if step} == {LIVE, OFFLINE}


@pytest.mark.parametrize(
    "bound", [Bound(PROJECT, 64 * M, used=48 * M), Bound(FILE, 64 * M, used=48 * M)]
)
def test_a_size_below_the_use_is_refused(bound: Bound) -> None:
    with pytest.raises(SpecError, match=r"disk_size: '32m' is less than what it holds \(48m\)"):
        bounds.check(bound, PLACE, 32 * M, "disk_size")
    bounds.check(bound, PLACE, 56 * M, "disk_size")


def test_a_quota_that_was_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_missing", lambda: None)
    with pytest.raises(HostError, match="the project quota that limited it is off.*prjquota"):
        bounds.check(Bound(PROJECT, off=True), PLACE, 64 * M, "size")


@pytest.mark.parametrize(
    ("enforced", "ext4", "mkfs", "name", "remedy"),
    [
        (True, False, False, PROJECT, ""),
        (False, True, True, FILE, "prjquota"),
        (False, False, True, "", "boot a kernel with it"),
        (False, True, False, "", "apt install e2fsprogs"),
    ],
)
def test_way(
    *,
    enforced: bool,
    ext4: bool,
    mkfs: bool,
    name: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quotas, "enforced", lambda directory: enforced)
    monkeypatch.setattr(filesystems, "offered", lambda kind: ext4)
    monkeypatch.setattr(loop_devices, "CONTROL", "/")
    monkeypatch.setattr(ways.shutil, "which", lambda program, path: mkfs or None)
    way = ways.choose("/nowhere/at/all")
    assert way.name == name
    assert remedy in way.remedy
    if name:
        assert ways.require("/nowhere", "size") == way
    else:
        with pytest.raises(HostError, match="size can't be enforced: .* leave size out"):
            ways.require("/nowhere", "size")


def test_a_loop_device_of_the_host_at_a_volume_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(str(tmp_path), f"{tmp_path}/fs.img")
    monkeypatch.setattr(loop_devices, "backs", lambda file, device: bool(os.stat(file)))
    assert not is_mounted(place)
    Path(place.image).touch()
    assert is_mounted(place)


def test_structures_have_the_kernels_sizes() -> None:
    structures = [quotas._Attributes, quotas._Usage, quotas._State]
    structures += [loop_devices._Info, loop_devices._Config]
    assert [ctypes.sizeof(entry) for entry in structures] == [28, 72, 160, 232, 304]


def test_sizes_and_inodes() -> None:
    assert [readable(n) for n in (512, 16 * M, 1536 * M, 3 << 40)] == ["512b", "16m", "1.5g", "3t"]
    assert (inodes(16 * M), inodes(1 << 30)) == (4096, 65536)


class Filesystem:
    """A file system with project quotas: limits and files by number."""

    def __init__(self) -> None:
        self.limits: dict[int, tuple[int, int]] = {}
        self.files: dict[int, int] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quotas, "enforced", lambda directory: True)
        monkeypatch.setattr(quotas, "known", self.known)
        monkeypatch.setattr(quotas, "set_limits", self.set_limits)
        monkeypatch.setattr(quotas, "limits", self.read)

    def known(self, directory: str) -> Iterator[int]:
        yield from {*self.limits, *self.files}

    def set_limits(self, directory: str, number: int, size: int, files: int) -> None:
        self.limits[number] = (size, files)
        if not size:
            del self.limits[number]

    def read(self, directory: str, number: int) -> quotas.Limits:
        return quotas.Limits(*self.limits.get(number, (0, 0)), 0, self.files.get(number, 0))


def test_numbers_of_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, site = Filesystem(), Site(str(tmp_path))
    disk.install(monkeypatch)
    declared = tmp_path / "projid"
    declared.write_text(f"backup:{projects.FIRST}\n# a comment\nbroken\n")
    monkeypatch.setattr(quotas, "PROJID", str(declared))
    monkeypatch.setattr(projects, "COUNT", 3)
    disk.limits[projects.FIRST + 1] = (M, 1)
    ours = projects.allocate(site, str(tmp_path), 64 * M)
    assert ours == projects.FIRST + 2
    assert disk.limits[ours] == (64 * M, 4096)
    disk.files[ours] = 3
    with pytest.raises(HostError, match="no number of a project is free"):
        projects.allocate(site, str(tmp_path), M)
    assert projects.recorded(site) == {ours: str(tmp_path)}
    del disk.files[ours]
    assert projects.sweep(site) == {}
    assert disk.limits == {projects.FIRST + 1: (M, 1)}
    assert not Path(site.projects).exists()


def test_a_teardown_withdraws_our_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, site = Filesystem(), Site(str(tmp_path))
    disk.install(monkeypatch)
    ours = projects.allocate(site, str(tmp_path), 64 * M)
    disk.files[ours] = 1
    projects.release(site)
    assert disk.limits == {}
    assert projects.recorded(site) == {}


def test_a_file_has_a_largest_size() -> None:
    bound = Bound(FILE, 64 * M)
    bounds.check(bound, PLACE, (16 << 40) - 4096, "disk_size")
    with pytest.raises(SpecError, match="more than a file system in a file can have"):
        bounds.check(bound, PLACE, (16 << 40) - 1, "disk_size")
    bounds.check(Bound(PROJECT, 64 * M), PLACE, 1 << 50, "disk_size")
