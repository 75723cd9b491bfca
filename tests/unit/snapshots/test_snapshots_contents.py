# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The contents of layers, whatever a tenant put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandlot.snapshots import contents
from sandlot.snapshots.contents import Contents, has_own, look

LAUNCH = {
    "tmpfs": {"/run/lock": ""},
    "files": {"/etc/hosts": "/run/sandlot/web/etc/hosts"},
    "directories": ["/var/lib/data"],
    "cwd": "/srv/www",
}
OURS = ("proc", "sys", "dev", "tmp", "run/lock", "var/lib/data", "var/lib/dbus", "srv/www", "etc")


@pytest.fixture()
def upper(tmp_path: Path) -> Path:
    for path in OURS:
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "etc/hosts").touch()
    (tmp_path / "etc/machine-id").write_text("0" * 32 + "\n")
    return tmp_path


def held(upper: Path) -> Contents:
    found = look(str(upper), LAUNCH)
    assert has_own(str(upper), LAUNCH) == found.own
    return found


def test_what_sandlot_makes_is_not_the_sandboxs_own(upper: Path) -> None:
    assert held(upper) == Contents()
    assert look(str(upper), {}).own


def test_a_layer_that_is_missing_or_no_directory_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/")
    for name in ("missing", "file"):
        assert held(tmp_path / name) == Contents()


@pytest.mark.parametrize(
    "path", ["data", "etc/hosts2", "srv/www/index.html", "var/lib/dbus/machine-id.old", "proc/x"]
)
def test_a_file_is_its_own(upper: Path, path: str) -> None:
    (upper / path).write_text("x")
    assert held(upper).own and held(upper).files == 1 and held(upper).size >= 1


def test_more_than_a_place_for_a_mount_is_its_own(upper: Path) -> None:
    (upper / "etc/hosts").write_text("127.0.0.1 me\n")
    assert held(upper).files == 1


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_of_every_kind(upper: Path, kind: str) -> None:
    path = str(upper / "x")
    {"directory": os.mkdir, "fifo": os.mkfifo, "link": lambda p: os.symlink("/etc/passwd", p)}[
        kind
    ](path)
    assert held(upper).own and held(upper).files == (kind != "directory")


def test_nothing_is_followed_and_a_hard_link_counts_once(upper: Path, tmp_path: Path) -> None:
    (upper / "a").write_bytes(b"x" * 8192)
    alone = held(upper).size
    os.link(upper / "a", upper / "b")
    (upper / "up").symlink_to("..")
    assert held(upper).files == 3
    assert held(upper).size - alone <= 4096


def test_size_is_what_lies_on_the_disk(upper: Path) -> None:
    with (upper / "sparse").open("wb") as handle:
        handle.truncate(1 << 40)
    assert held(upper).size < 1 << 20


def test_the_walk_is_bounded_in_number_and_depth(upper: Path) -> None:
    for number in range(20):
        (upper / f"f{number}").touch()
    some = look(str(upper), LAUNCH, most=10)
    assert some.more and some.own and some.files <= 10
    deep = upper / "deep" / "/".join("d" * (contents.DEEPEST + 5))
    deep.mkdir(parents=True)
    assert held(upper).more


def test_names_of_any_bytes(upper: Path) -> None:
    os.mkdir(os.fsencode(upper) + b"/\xff\n")
    Path(os.fsdecode(os.fsencode(upper) + b"/\xff\n/\xfe")).touch()
    assert held(upper).files == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="trusted attributes are root's")
@pytest.mark.parametrize("name", ["trusted.overlay.opaque", "trusted.overlay.redirect"])
def test_a_directory_that_replaces_that_of_the_image_is_its_own(upper: Path, name: str) -> None:
    try:
        os.setxattr(upper / "var/lib", name, b"y")
    except OSError:
        pytest.skip("the file system has no such attributes")
    assert held(upper).own
