# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies of trees, on a file system with reflinks and on one without."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sandlot.kernel.copying import Copied, Shift, copy_tree, same
from sandlot.kernel.trees import remove_tree

SIZE = 1 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
MAKE = {"ext4": ["mkfs.ext4", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}


@pytest.fixture(params=sorted(MAKE), scope="module")
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    image = tmp_path_factory.mktemp("disk") / "image"
    with open(image, "wb") as handle:
        handle.truncate(256 << 20)
    subprocess.run([*MAKE[request.param], str(image)], check=True)
    place = image.with_name("place")
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,nosuid,nodev", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def source(disk: Path) -> Iterator[Path]:
    place = disk / "source"
    place.mkdir()
    yield place
    for name in ("source", "target"):
        remove_tree(str(disk / name))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def copy(source: Path, owner: object = same) -> tuple[Path, Copied]:
    target = source.with_name("target")
    target.mkdir()
    with opened(source) as reading, opened(target) as writing:
        result = copy_tree(reading, writing, owner)  # type: ignore[arg-type]
    return target, result


def reflinks(disk: Path) -> bool:
    text = Path("/proc/self/mounts").read_text()
    return f" {disk} btrfs " in text


def test_copy_keeps_all_that_a_file_has(source: Path) -> None:
    file = source / "file"
    file.write_bytes(b"data" * SIZE)
    os.setxattr(file, "user.note", b"kept")
    os.setxattr(file, "trusted.overlay.origin", b"\0handle")
    os.chown(file, 33, 50)
    file.chmod(0o4751)
    os.utime(file, ns=(10**18 + 1, 10**18 + 3))
    (source / "link").symlink_to("/etc/shadow")
    os.lchown(source / "link", 7, 8)
    os.mkfifo(source / "fifo")
    (source / "fifo").chmod(0o620)
    os.mknod(source / "gone", stat.S_IFCHR, os.makedev(0, 0))
    below = source / "opaque"
    below.mkdir()
    below.chmod(0o2770)
    os.setxattr(below, "trusted.overlay.opaque", b"y")
    (below / b"\xff\n".decode("utf-8", "surrogateescape")).mkdir()
    os.utime(below, (5, 6))
    source.chmod(0o1777)

    target, result = copy(source)

    made = target / "file"
    status = made.stat()
    assert made.read_bytes() == file.read_bytes()
    assert os.getxattr(made, "user.note") == b"kept"
    assert os.getxattr(made, "trusted.overlay.origin") == b"\0handle"
    assert (status.st_uid, status.st_gid, status.st_mode) == (33, 50, stat.S_IFREG | 0o4751)
    assert status.st_mtime_ns == 10**18 + 3
    link = target / "link"
    assert os.readlink(link) == "/etc/shadow" and link.lstat().st_uid == 7
    assert (target / "fifo").lstat().st_mode == stat.S_IFIFO | 0o620
    whiteout = (target / "gone").lstat()
    assert stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == 0
    assert os.getxattr(target / "opaque", "trusted.overlay.opaque") == b"y"
    directory = (target / "opaque").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_mtime) == (0o2770, 6)
    assert os.listdir(os.fsencode(target / "opaque")) == [b"\xff\n"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o1777
    shared = 4 * SIZE if reflinks(source.parent) else 0
    assert (result.directories, result.files, result.size) == (2, 4, 4 * SIZE)
    assert (result.shared, result.stored > 0) == (shared, True)


def test_holes_stay_holes(source: Path) -> None:
    with open(source / "sparse", "wb") as handle:
        handle.seek(1 << 34)
        handle.write(b"end")
        handle.truncate(1 << 35)
    target, dummy = copy(source)
    made = target / "sparse"
    assert made.stat().st_size == 1 << 35 and made.stat().st_blocks * 512 <= 1 << 17
    with open(made, "rb") as handle:
        handle.seek(1 << 34)
        assert handle.read(4) == b"end\0"


def test_hard_links_stay_links_at_any_depth(source: Path) -> None:
    deep = source.joinpath(*["d"] * 5)
    deep.mkdir(parents=True)
    outside = source.with_name("outside")
    (deep / "one").write_text("text")
    for place in (source / "two", deep / "three", outside):
        os.link(deep / "one", place)
    target, result = copy(source)
    outside.unlink()
    names = [
        target / "two",
        target.joinpath(*["d"] * 5, "one"),
        target.joinpath(*["d"] * 5, "three"),
    ]
    assert len({name.stat().st_ino for name in names}) == 1
    assert names[0].stat().st_nlink == 3 and result.size == 4
    assert sorted(os.listdir(target)) == ["d", "two"]


def test_depth_has_no_limit(source: Path) -> None:
    """More levels than descriptors, and a path longer than the kernel takes."""
    levels = 3000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open(source, DIRECTORY)
    for dummy in range(levels):
        os.mkdir("n" * 40, dir_fd=fd)
        below = os.open("n" * 40, DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    before = os.listdir("/proc/self/fd")
    try:
        dummy_target, result = copy(source)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before
    assert (result.directories, result.files) == (levels, 1)


def test_owners_move_with_acls_and_capabilities(source: Path) -> None:
    file = source / "file"
    file.write_text("x")
    os.chown(file, 200033, 200000)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 200100),
            (4, 4, 0xFFFFFFFF),
            (0x10, 4, 0xFFFFFFFF),
            (0x20, 0, 0xFFFFFFFF),
        )
    )
    os.setxattr(file, "system.posix_acl_access", acl)
    mode = file.stat().st_mode
    capability = struct.pack("<6I", 0x03000001, 1 << 10, 0, 0, 0, 200000)
    os.setxattr(file, "security.capability", capability)
    target, dummy = copy(source, Shift(200000, 400000, 65536))
    status = (target / "file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode) == (400033, 400000, mode)
    moved = os.getxattr(target / "file", "system.posix_acl_access")
    assert struct.unpack_from("<HHI", moved, 12) == (2, 4, 400100)
    assert os.getxattr(target / "file", "security.capability")[-4:] == struct.pack("<I", 400000)


def test_sockets_are_left_out(source: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, opened(source) as fd:
        server.bind(f"/proc/self/fd/{fd}/socket")
        target, result = copy(source)
    assert os.listdir(target) == [] and result.skipped == 1


def test_mount_in_the_tree_is_an_error(source: Path) -> None:
    inner = source / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], check=True)
    try:
        with pytest.raises(OSError) as caught:
            copy(source)
    finally:
        subprocess.run(["umount", str(inner)], check=True)
    assert caught.value.errno == errno.EXDEV


def _exchange(directory: int, one: bytes, other: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(316, directory, one, directory, other, 2) == 0


def _careless(path: Path) -> bool:
    """Whether the secret comes out of a file that was no link when it was looked at."""
    return not path.is_symlink() and "secret" in path.read_text()


def test_exchanged_links_lead_nowhere(source: Path) -> None:
    """A tenant exchanges a directory and a file with links to the host's while both are copied."""
    canary = source.with_name("canary")
    canary.mkdir()
    (canary / "secret").write_text("secret of the host")
    for number in range(50):
        inner = source / f"d{number}"
        inner.mkdir()
        (inner / "secret").write_text("own")
        (inner / "file").write_text("own")
    for name in ("directory", "file"):
        (source / name).mkdir() if name == "directory" else (source / name).write_text("own")
        (source / f"{name}.link").symlink_to(canary if name == "directory" else canary / "secret")
    (source / "directory/secret").write_text("own")
    racer = os.fork()
    if racer == 0:
        with opened(source) as fd:
            while True:
                _exchange(fd, b"directory", b"directory.link")
                _exchange(fd, b"file", b"file.link")
    vanished = 0
    try:
        assert any(_careless(source / "file") for dummy in range(100000))
        for attempt in range(1000):
            target, result = copy(source)
            vanished += result.vanished
            search = ["grep", "-rl", "secret of the host", str(target)]
            assert not subprocess.run(search, stdout=subprocess.PIPE).stdout
            remove_tree(str(target))
            if vanished and attempt > 8:
                break
    finally:
        os.kill(racer, signal.SIGKILL)
        os.waitpid(racer, 0)
        remove_tree(str(canary))
    assert vanished
