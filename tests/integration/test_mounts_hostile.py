# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tenants that try to turn a mount into a way to the host; each attack has a positive control."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxes import Host, Sandbox
from sandlot.errors import LaunchError
from sandlot.kernel import mounts
from sandlot.spec import confinement

SLEEP = ["sleep", "1000000"]
# An unsafe look-up is fooled within a few, as each race's control shows first.
STARTS = int(os.environ.get("SANDLOT_RACES", "5"))
_EXCHANGE = 2
SECRET = "secret of the host"


@pytest.fixture
def shared(sandbox_host: Host) -> Iterator[Path]:
    """A directory that a tenant writes to: a volume, or a path of the host with idmap."""
    path = Path(sandbox_host.root, "shared")
    path.mkdir(exist_ok=True)
    yield path
    sandbox_host.clear()
    shutil.rmtree(path)


@pytest.fixture
def canary(sandbox_host: Host) -> Iterator[Path]:
    """A directory of the host that nobody mounts."""
    path = Path(sandbox_host.root, "canary")
    path.mkdir(exist_ok=True)
    (path / "file").write_text(SECRET)
    yield path
    assert sorted(os.listdir(path)) == ["file"]
    assert (path / "file").read_text() == SECRET
    shutil.rmtree(path)


def volume(shared: Path, target: str, **options: Any) -> dict[str, Any]:
    return {"type": "volume", "target": target, "source": "v", "path": str(shared), **options}


def bind(path: Path, target: str, **options: Any) -> dict[str, Any]:
    return {"type": "bind", "target": target, "source": str(path), "path": str(path), **options}


@contextlib.contextmanager
def racing(shared: Path, to: str) -> Iterator[None]:
    """A process that exchanges the directory "place" and a link, as fast as it can.

    It does what a tenant can do in the volume, with less in its way.
    """
    (shared / "place").mkdir()
    (shared / "place/own").touch()
    inode = (shared / "place").stat().st_ino
    (shared / "link").symlink_to(to)
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        top = os.open(shared, os.O_RDONLY)
        while True:
            libc.renameat2(top, b"place", top, b"link", _EXCHANGE)
    try:
        assert any(fooled(shared / "place", inode) for _ in range(1_000_000))
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def names(box: Sandbox, path: str) -> list[str]:
    return box.shell(f"ls -A {path}").stdout.decode().split()


def mounted(box: Sandbox) -> list[str]:
    """Paths of mounts, as the kernel tells them."""
    lines = Path(f"/proc/{box.init}/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines]


def fooled(path: Path, inode: int) -> bool:
    """Whether a path is used after a look at it as if nothing came in between: the control."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return False
    mount = mounts.clone_tree(str(path))
    try:
        return os.fstat(mount).st_ino != inode
    finally:
        os.close(mount)


def attempts(box: Sandbox, check: Callable[[], None]) -> None:
    """Start and stop many times: each start is refused for a link, or right."""
    for _ in range(STARTS):
        try:
            box.start()
        except LaunchError as error:
            assert "link" in error.message or "director" in error.message, error
            continue
        check()
        box.stop()


@pytest.mark.parametrize("kind", ["volume", "bind"])
def test_a_source_is_exchanged_for_a_link(
    sandbox_host: Host, shared: Path, canary: Path, kind: str
) -> None:
    """With ids mapped, the tenant's link is root's on the disk, as is that of a real root."""
    of_volume = volume(shared, "/data", subpath="place")
    mount = of_volume if kind == "volume" else bind(shared / "place", "/data")
    box = sandbox_host.created("b", SLEEP, mounts=[mount])

    def check() -> None:
        assert names(box, "/data") == ["own"]

    with racing(shared, str(canary)):
        attempts(box, check)


@pytest.mark.parametrize("to", ["/etc", "/proc"])
def test_a_target_is_exchanged_for_a_link(
    sandbox_host: Host, shared: Path, canary: Path, to: str
) -> None:
    usual = sandbox_host.started("a", SLEEP)
    inside = [volume(shared, "/data"), bind(canary, "/data/place", read_only=True)]
    memory = {"type": "tmpfs", "target": "/data/place/memory", "options": ""}
    box = sandbox_host.created("b", SLEEP, mounts=[inside[0], memory] if to == "/etc" else inside)

    def check() -> None:
        added = sorted(set(mounted(box)) - set(mounted(usual)))
        # The tenant goes on to exchange the two names, and the mount moves along.
        assert added[0] == "/data" and len(added) == 2 and added[1].startswith("/data/")
        assert sorted(set(mounted(usual)) - set(mounted(box))) == []

    with racing(shared, to):
        attempts(box, check)


def test_no_flag_of_a_mount_can_be_cleared(sandbox_host: Host, shared: Path) -> None:
    """Not even by a sandbox that may mount, which is no default; of its own mount, it can."""
    (shared / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", shared / "below"], check=True)
    try:
        sandbox_host.started(
            "a",
            SLEEP,
            capabilities=confinement.mask(["SYS_ADMIN"]),
            seccomp=None,
            mounts=[bind(shared, "/data", read_only=True), volume(shared, "/volume")],
        )
        box = sandbox_host.boxes["a"]
        change = "mount -o remount,bind,{} {}"
        own = "mount -t tmpfs none /mnt && mount -o remount,bind,ro,nosuid,nodev /mnt && "
        box.shell("mkdir -p /mnt")
        assert box.shell(own + change.format("rw,suid,dev", "/mnt")).code == 0
        for path in ("/data", "/data/below"):
            for words in ("rw,nosuid,nodev", "ro,suid,nodev", "ro,nosuid,dev"):
                assert box.shell(change.format(words, path)).code != 0, (path, words)
        assert box.shell(change.format("rw,suid,nodev", "/volume")).code != 0
        assert box.shell("umount /data/below").code != 0
        assert box.shell("touch /data/below/x").code != 0
    finally:
        sandbox_host.clear()
        subprocess.run(["umount", shared / "below"], check=True)


def test_devices_and_setuid_programs_are_inert(sandbox_host: Host, shared: Path) -> None:
    """The controls are the same device on the host, the same program in the layer."""
    os.mknod(shared / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(shared / "null", 0o666)
    with open(shared / "null", "wb", buffering=0) as control:
        assert control.write(b"x") == 1
    box = sandbox_host.sandbox(
        "a",
        SLEEP,
        lower=sandbox_host.python_image,
        no_new_privileges=False,
        user="5",
        mounts=[volume(shared, "/data")],
    )
    base = box.config["ids"]["uid"]
    for path, owner in ((shared / "program", 33), (Path(box.paths.upper, "program"), base + 33)):
        shutil.copy(sandbox_host.python_image / "usr/bin/python3", path)
        os.chown(path, owner, owner)
        path.chmod(0o6755)
    box.create()
    box.start()
    assert b"ermission denied" in box.shell("echo x > /data/null").stderr
    show = ["-ISc", "import os; print(os.geteuid(), os.getegid())"]
    assert box.exec(["/program", *show]).stdout == b"33 33\n"
    assert box.exec(["/data/program", *show]).stdout.split()[0] == b"5"


def test_mountinfo_names_only_the_source(sandbox_host: Host, shared: Path) -> None:
    """The kernel shows where in its file system a source lies; nothing else of the host."""
    usual = sandbox_host.started("a", SLEEP)
    box = sandbox_host.started("b", SLEEP, mounts=[volume(shared, "/data")])
    lines = box.exec(["cat", "/proc/self/mountinfo"]).stdout.decode().splitlines()
    known = usual.exec(["cat", "/proc/self/mountinfo"]).stdout.decode()
    roots = [line.split()[3] for line in lines if f" {line.split()[4]} " not in known]
    assert len(roots) == 1 and str(shared).endswith(roots[0])
    others = [line for line in lines if " /data " not in line and "/etc/" not in line]
    assert str(sandbox_host.root) not in "\n".join(others)
