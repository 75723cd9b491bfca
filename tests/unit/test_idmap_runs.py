# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Edits of id files that are interrupted, run at once, or meet locks of others."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import deadly
import pytest
from idmap_fixtures import content, converge, listing, paths, plan
from sandlot import idmap
from sandlot.errors import ForeignError, SandlotError
from sandlot.idmap import FIRST, SIZE, IdRange, lockfile
from sandlot.plan import apply_all
from sandlot.site import Site

__all__ = ["paths"]


@pytest.mark.parametrize("done", [1, 2])
def test_a_half_written_pair_is_completed(paths: Site, done: int) -> None:
    apply_all(plan(paths, "web")[:1])
    assert converge(paths, "web") == [f"{paths.subgid}: add web"]
    apply_all(plan(paths, absent=("web",))[:1])
    assert converge(paths, absent=("web",)) == [f"{paths.subgid}: remove web"]
    assert content(paths) == (b"", b"")


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_lock_of_a_dead_process_is_broken(paths: Site) -> None:
    Path(f"{paths.subuid}.lock").write_bytes(b"%d\0" % _dead_pid())
    converge(paths, "web")
    assert "subuid.lock" not in listing(paths)


def test_the_lock_of_a_zombie_is_broken(paths: Site) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    Path(f"{paths.subuid}.lock").write_bytes(b"%d\0" % process.pid)
    converge(paths, "web")
    process.wait()


def test_the_lock_of_a_live_process_is_honoured(paths: Site) -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    lock = Path(f"{paths.subuid}.lock")
    lock.write_bytes(b"%d\0" % process.pid)
    with pytest.raises(ForeignError, match=f"process {process.pid} holds .*subuid.lock"):
        with lockfile.locked(paths.subuid, wait=0.1):
            pass
    assert lock.read_bytes() == b"%d\0" % process.pid
    process.communicate(b"")
    converge(paths, "web")


def test_a_lock_taken_while_another_is_found_stale_stays(
    paths: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder lets go and ends after its pid was read; a third process wants the lock then."""
    lock = f"{paths.subuid}.lock"
    Path(lock).write_bytes(b"%d\0" % _dead_pid())
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def take() -> None:
        theirs.recv()
        theirs.send(lockfile._link(paths.subuid, lock))
        theirs.recv()

    def ended(pid: int) -> bool:
        os.unlink(lock)
        ours.send("take it")
        ours.poll(0.5)
        return False

    # Started first: a child would share the open file that its parent has locked.
    taker = context.Process(target=take, daemon=True)
    taker.start()
    with monkeypatch.context() as patched:
        patched.setattr(lockfile, "_alive", ended)
        lockfile._break_stale(lock)
    assert ours.poll(20) and ours.recv() is True
    assert lockfile.holder(lock) == taker.pid
    ours.send("end")
    taker.join()


@pytest.mark.parametrize("text", [b"", b"joe\0"])
def test_a_lock_without_a_pid_is_nobodys_to_break(paths: Site, text: bytes) -> None:
    Path(f"{paths.subuid}.lock").write_bytes(text)
    with pytest.raises(ForeignError, match="remove .*subuid.lock"):
        with lockfile.locked(paths.subuid, wait=0.1):
            pass


def test_lckpwdf_is_honoured_and_held(paths: Site) -> None:
    path = f"{paths.root}/etc/.pwd.lock"
    Path(path).touch()
    probe = (
        "import fcntl, sys\nhandle = open(sys.argv[1], 'w')\n"
        "try: fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError: sys.exit(7)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", probe, path]
    with lockfile.locked(paths.subuid):
        assert subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 7
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        with pytest.raises(ForeignError, match=".pwd.lock"):
            with lockfile.locked(paths.subuid, wait=0.1):
                pass
        process.communicate(b"")
    converge(paths, "web")


def test_leftovers_of_a_killed_run_are_swept(paths: Site) -> None:
    names = listing(paths)
    dead = _dead_pid()
    Path(f"{paths.subuid}.sandlot.{dead}").touch()
    Path(f"{paths.subgid}.lock").write_bytes(b"%d\0" % dead)
    Path(f"{paths.subuid}.sandlot.x").touch()
    assert converge(paths) == [
        f"{paths.subuid}: clean up after an interrupted run",
        f"{paths.subgid}: clean up after an interrupted run",
    ]
    assert listing(paths) == sorted([*names, "subuid.sandlot.x"])


def _add_one(root: str, number: int) -> None:
    paths = Site(root)
    name = f"s{number}"
    ids = {name: IdRange(FIRST + number * SIZE)}
    for operation in idmap.operations(paths, idmap.observe(paths), ids):
        operation.apply()


def _foreign_edit(root: str, number: int) -> None:
    """What useradd does: both locks, read, append, replace."""
    for file in (f"{root}/etc/subuid", f"{root}/etc/subgid"):
        with lockfile.locked(file):
            old = Path(file).read_bytes()
            Path(f"{file}+").write_bytes(old + b"u%d:%d:65536\n" % (number, 100000 + SIZE * number))
            os.rename(f"{file}+", file)


@pytest.mark.parametrize("password_lock", [False, True])
def test_a_hundred_concurrent_edits_lose_no_line(paths: Site, password_lock: bool) -> None:
    if password_lock:
        Path(f"{paths.root}/etc/.pwd.lock").touch()
    for file in (paths.subuid, paths.subgid):
        Path(f"{file}.lock").write_bytes(b"%d\0" % _dead_pid())
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=job, args=(paths.root, number))
        for number in range(50)
        for job in (_add_one, _foreign_edit)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert {job.exitcode for job in jobs} == {0}
    ours = {f"sandlot.s{n}:{FIRST + n * SIZE}:65536" for n in range(50)}
    users = {f"u{n}:{100000 + SIZE * n}:65536" for n in range(50)}
    for text in content(paths):
        lines = text.decode().splitlines()
        assert len(lines) == 100 and set(lines) == ours | users


def _edit_and_die_at(root: str, call: str, number: int) -> None:
    """Apply, and get SIGKILL at the given use of a system call's wrapper."""
    paths = Site(root)
    operations = plan(paths, "web")
    deadly.arm(call, number)
    apply_all(operations)
    os._exit(0)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("call", ["link", "unlink", "rename", "fsync", "write", "open"])
def test_killed_anywhere_it_converges_and_leaves_nothing(
    paths: Site, call: str, missing: bool
) -> None:
    if missing:
        os.unlink(paths.subuid)
    names, before = listing(paths), Path(paths.subgid).read_bytes()
    context = multiprocessing.get_context("fork")
    for number in range(1, 100):
        job = context.Process(target=_edit_and_die_at, args=(paths.root, call, number))
        job.start()
        job.join()
        converge(paths, "web")
        converge(paths, absent=("web",))
        assert listing(paths) == names and Path(paths.subgid).read_bytes() == before
        if job.exitcode == 0:
            break
    assert number > 1


def test_a_full_disk_is_explained_and_changes_nothing(
    paths: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = plan(paths, "web")
    names = listing(paths)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SandlotError, match="cannot edit .*subuid: No space left on device"):
        apply_all(operations)
    assert content(paths) == (b"", b"") and listing(paths) == names


def test_fcntl_lock_is_released_afterwards(paths: Site) -> None:
    path = Path(f"{paths.root}/etc/.pwd.lock")
    path.touch()
    converge(paths, "web")
    with open(path, "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
