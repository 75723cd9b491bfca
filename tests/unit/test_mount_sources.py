# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths of the host that are mounted: where their links lead, and what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath
from typing import Any

import pytest
from sandlot.build import sources
from sandlot.converge import bind_checks
from sandlot.errors import LaunchError
from sandlot.host_paths import why_refused
from sandlot.idmap import IdRange
from sandlot.kernel import mountinfo
from sandlot.sandbox.record import ImageRef, Record
from sandlot.spec import normalise


def resolved(path: str, **options: Any) -> str:
    fd = sources.bind_source(path, **options)
    place = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return place


def refused(path: object, **options: Any) -> str:
    with pytest.raises(LaunchError) as caught:
        resolved(str(path), **options)
    assert caught.value.hint
    return caught.value.message


def test_links_of_the_host_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In directories that no sandbox writes to as root, such as / and /etc."""
    expected = os.path.realpath("/bin/sh")
    assert resolved("/bin/sh") == expected and "/bin/sh" != expected
    assert resolved(str(tmp_path)) == str(tmp_path)


def test_links_that_a_sandbox_may_have_made_are_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr/share")
    (tmp_path / "self").symlink_to("self")
    for path in ("link", "link/misc", "self"):
        assert "a link on the way" in refused(tmp_path / path)
    assert "does not exist" in refused(tmp_path / "none/x")
    (tmp_path / "file").touch()
    assert "no directory" in refused(tmp_path / "file/x")


def test_a_link_of_the_host_may_lead_to_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    leads = {"/usr/bin": "/etc"}
    monkeypatch.setattr(sources, "_resolved", lambda top, path: os.open(leads[path], os.O_PATH))
    assert "leads to /etc, which holds a secret" in refused("/usr/bin")


def test_what_is_never_mounted(tmp_path: Path) -> None:
    assert "is a device" in refused("/dev/null") or "kernel" in refused("/dev/null")
    assert "sandlot's own" in refused(tmp_path, ours=[str(tmp_path)])
    assert f"holds {tmp_path}/x" in refused(tmp_path, ours=[f"{tmp_path}/x"])
    assert "as root" in refused("/usr/share", as_root=True)
    assert resolved("/usr/share") == "/usr/share"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/", "whole host"),
        ("/proc/1", "kernel"),
        ("/var/lib", "holds /var/lib/sandlot"),
        ("/etc/ssh", "holds a secret"),
        ("/etc/ssh/ssh_host_rsa_key", "is a secret"),
        ("/home/a/.gnupg/x", "secret of a user"),
        ("/processes", ""),
        ("/srv", ""),
        ("/etc/ssh/ssh_config", ""),
    ],
)
def test_reasons(path: str, reason: str) -> None:
    assert reason in why_refused(path) and bool(reason) == bool(why_refused(path))


def test_file_systems_at_and_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("/", "ext4"), ("/srv", "xfs"), ("/srv/a/proc", "proc"), ("/srv/ab", "tmpfs")]
    lines = [f"1 0 0:1 / {point} rw - {kind} none rw\n" for point, kind in rows]
    (tmp_path / "mountinfo").write_text("".join(lines))
    monkeypatch.setattr(mountinfo, "PATH", str(tmp_path / "mountinfo"))
    assert mountinfo.file_systems("/srv/a") == {"/srv": "xfs", "/srv/a/proc": "proc"}
    assert mountinfo.file_systems("/srv/a/proc/sys") == {"/srv/a/proc": "proc"}
    assert mountinfo.file_systems("/usr") == {"/": "ext4"}
    assert mountinfo.file_systems("/") == dict(rows)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "may"),
    [
        (stat.S_IFDIR | 0o755, 0, 0, False),
        (stat.S_IFDIR | 0o700, 200033, 0, True),
        (stat.S_IFDIR | 0o770, 0, 265535, True),
        (stat.S_IFDIR | 0o750, 0, 200000, False),
        (stat.S_IFDIR | 0o1777, 0, 0, True),
        (stat.S_IFREG | 0o644, 265536, 265536, False),
        (stat.S_IFLNK | 0o777, 0, 0, False),
    ],
)
def test_who_may_write(mode: int, uid: int, gid: int, may: bool) -> None:
    status = os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))
    assert bind_checks._may_write(status, IdRange(200000)) == may


@pytest.mark.parametrize(
    ("mode", "owner", "group", "closed"),
    [
        (0o700, 0, 0, True),
        (0o750, 0, 0, True),
        (0o750, 0, 33, False),
        (0o701, 0, 0, False),
        (0o700, 1000, 0, False),
        (0o755, 0, 0, False),
    ],
)
def test_who_enters_a_directory(
    monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, group: int, closed: bool
) -> None:
    status = os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, owner, group, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path: status)
    assert bind_checks._is_closed(PurePath("/srv")) == closed


def test_the_server_of_a_path_is_that_of_the_mount_around_it() -> None:
    known = {"/": "ext4", "/srv": "nfs4", "/srv/here": "ext4", "/media/x": "fuse.sshfs"}
    served = {"/srv": "nfs4", "/srv/a/b": "nfs4", "/media/x/": "fuse.sshfs"}
    others = dict.fromkeys(("/", "/srv/here/a", "/srvs", "/media", "//srv", "relative"), "")
    for path, kind in {**served, **others}.items():
        assert mountinfo.server_of(path, known) == kind, path


def test_mounts_of_many_sandboxes_take_one_look_at_the_mounts_of_the_host(monkeypatch) -> None:
    looks = []
    monkeypatch.setattr(mountinfo, "kinds", lambda: looks.append(1) or {"/": "nfs4"})
    mount = {"type": "bind", "source": "/srv", "target": "/srv"}
    specs = [normalise({"name": f"n{i}", "image": "b", "mounts": [mount]}) for i in range(9)]
    image = ImageRef("b", "sha")
    records = [Record(spec.name, "present", "started", spec, IdRange(1), image) for spec in specs]
    assert bind_checks.warnings(records) == []
    assert len(looks) == 1
