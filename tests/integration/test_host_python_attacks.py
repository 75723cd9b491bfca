# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Root of a sandbox attacks the host's Python, which it sees for the time of a command."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import static_busybox
from sandboxes import Host, Sandbox
from sandlot.reach import host_python, interpreter
from sandlot.reach.python_place import INTERPRETER, PLACE, PROGRAM

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
ALL = (1 << 41) - 1
MIGHTY: dict[str, Any] = {"seccomp": None, "capabilities": ALL, "no_new_privileges": False}
IDLE = ["sleep", "1000000"]
WRITES = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
READ_ONLY, REMOUNT, BIND = 1, 32, 4096

def mount(source, flags):
    if libc.mount(source, place.encode(), b"tmpfs", flags, None):
        raise OSError(ctypes.get_errno(), "mount")

def unmount():
    if libc.umount2(place.encode(), 2):
        raise OSError(ctypes.get_errno(), "umount")

place = sys.argv[1]
file = next(entry.path for entry in os.scandir(place) if entry.is_file())
attacks = {
    "remount": lambda: mount(b"none", REMOUNT | BIND),
    "remount all": lambda: mount(b"none", REMOUNT),
    "create": lambda: open(place + "/new", "w"),
    "change": lambda: open(file, "r+"),
    "mode": lambda: os.chmod(file, 0o777),
    "owner": lambda: os.chown(file, 1, 1),
    "time": lambda: os.utime(file),
    "xattr": lambda: os.setxattr(file, "user.x", b"1"),
    "remove": lambda: os.unlink(file),
    "rename": lambda: os.rename(place, place + "x"),
    "cover": lambda: mount(b"none", 0),
    "unmount": unmount,
}
failed = {}
for name, attack in attacks.items():
    try:
        attack()
    except OSError as error:
        failed[name] = errno.errorcode[error.errno]
print(json.dumps(failed))
"""
READ_ONLY = ("create", "change", "mode", "owner", "time", "xattr", "remove")


@contextlib.contextmanager
def shown(box: Sandbox) -> Iterator[None]:
    running = box.running()
    assert running is not None
    with interpreter.shown(box.paths, running):
        yield


def attacked(box: Sandbox, place: str) -> dict[str, str]:
    """What failed of the attacks, and how."""
    done = box.exec([INTERPRETER, "-", place], stdin=WRITES.encode())
    assert done.code == 0, done
    return dict(json.loads(done.stdout))


def test_root_inside_changes_nothing(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", IDLE)
    with shown(box):
        failed = attacked(box, PLACE)
    refused = dict.fromkeys(("remount", "remount all", "cover", "unmount"), "EPERM")
    assert failed == {**dict.fromkeys(READ_ONLY, "EROFS"), **refused, "rename": "EBUSY"}


def test_not_even_with_rights_to_mount(sandbox_host: Host) -> None:
    """It can cover its own view only; the attacks work where a mount is its own."""
    box = sandbox_host.started("a", IDLE, **MIGHTY)
    own = "mkdir /tree; mount -t tmpfs none /tree; touch /tree/file; mount -o remount,bind,ro /tree"
    with shown(box), host_python.tree(box.host.paths) as directory:
        assert box.shell(f"{own}; touch /tree/x").stderr.endswith(b"Read-only file system\n")
        assert attacked(box, "/tree") == {"rename": "EBUSY"}
        before = listing(directory)
        failed = attacked(box, PLACE)
        assert listing(directory) == before
    locked = {"remount": "EPERM", "remount all": "EPERM", "rename": "EBUSY"}
    assert failed == {**dict.fromkeys(READ_ONLY, "EROFS"), **locked}


def listing(directory: str) -> dict[str, tuple[float, ...]]:
    return {
        f"{place}/{name}": tuple(os.stat(f"{place}/{name}")[:7])
        for place, _, names in os.walk(directory)
        for name in names
    }


def test_processes_are_as_confined_as_others(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", IDLE)
    script = """
import os
print(open("/proc/self/status").read())
for name in sorted(os.listdir("/proc/self/ns")):
    print(os.readlink(f"/proc/self/ns/{name}"))
"""
    plain = "cat /proc/self/status; echo; for name in /proc/self/ns/*; do readlink $name; done"
    with shown(box):
        inside = box.exec([INTERPRETER, "-"], stdin=script.encode()).stdout.decode()
        other = box.shell(plain).stdout.decode()

    assert confinement(inside) == confinement(other)


def confinement(text: str) -> list[str]:
    """Rights and namespaces."""
    status, _, spaces = text.partition("\n\n")
    words = ("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "Speculation")
    lines = [line for line in status.splitlines() if line.startswith(words)]
    assert len(lines) > len(words) and len(spaces.split()) >= len(words)
    return [*lines, *spaces.split()]


def test_no_file_beside_the_tree_is_reached(
    sandbox_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beside the tree on the host shows only when the test mounts that directory."""
    box = sandbox_host.started("a", IDLE)
    climb = f"cd {PLACE}; ls -a . .. ../.. ../../../..; ls -a /proc/self/cwd/.."
    with shown(box), host_python.tree(box.host.paths) as directory:
        assert os.path.exists(f"{directory}/../sources.json")
        assert b"sources.json" not in box.shell(climb).stdout
        table = box.shell(f"grep {PLACE} /proc/self/mountinfo").stdout
        assert table.count(b"\n") == 1 and box.host.paths.root.encode() not in table
    weaken(monkeypatch, os.path.dirname(directory))
    with shown(box):
        assert b"sources.json" in box.shell(climb).stdout


def weaken(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    """Show another directory of the host."""
    monkeypatch.setattr(host_python, "tree", lambda dummy: contextlib.nullcontext(directory))


def test_set_id_programs_gain_nothing(
    sandbox_host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box = sandbox_host.started("a", IDLE, **MIGHTY)
    program = tmp_path / "busybox"
    shutil.copyfile(static_busybox.PROGRAM, program)
    program.chmod(0o4755)
    tmp_path.chmod(0o755)
    weaken(monkeypatch, str(tmp_path))
    with shown(box):
        script = f"cp -p {PLACE}/busybox /busybox; stat -c %a:%u /busybox; id -u"
        assert box.shell(script).stdout.split() == [b"4755:0", b"0"]
        for place, gains in (("", True), (PLACE, False)):
            found = box.exec([f"{place}/busybox", "su", "stranger"], user="33")
            assert (b"must be suid to work" not in found.stderr) is gains, found


def test_no_set_id_file_and_nothing_else_than_files(sandbox_host: Host) -> None:
    with host_python.tree(sandbox_host.paths) as directory:
        for place, names, files in os.walk(directory):
            for name in (*names, *files):
                mode = os.lstat(f"{place}/{name}").st_mode
                expected = (0o40755, 0o100755) if name in names else (0o100644, 0o100755)
                assert mode in expected, name
        assert not os.path.exists(f"{directory}/lib/python3/dist-packages")


def test_locks_are_no_signals_to_other_sandboxes(sandbox_host: Host) -> None:
    """The host's own file would be one inode for both."""
    boxes = [sandbox_host.started(name, IDLE) for name in ("a", "b")]
    script = "import fcntl, sys; fcntl.flock(open(sys.executable), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with shown(boxes[0]), shown(boxes[1]), host_python.tree(sandbox_host.paths) as directory:
        with open(f"/proc/{boxes[0].init}/root{INTERPRETER}", "rb") as program:
            fcntl.flock(program, fcntl.LOCK_EX)
            found = [box.exec([INTERPRETER, "-c", script]).stderr for box in boxes]
            assert found[0].splitlines()[-1].startswith(b"BlockingIOError") and not found[1]
            with open(f"{directory}/{PROGRAM}", "rb") as original:
                fcntl.flock(original, fcntl.LOCK_EX | fcntl.LOCK_NB)
