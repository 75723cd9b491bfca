# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Helpers that every part shares: programs, children that report, locks, files."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandlot import shell
from sandlot.cli import listing, main
from sandlot.errors import HostError
from sandlot.kernel import files, flock, fork, mounts, pid_one, program, signals
from sandlot.kernel.text import harmless
from sandlot.launcher import inherited

# sizeof(struct signalfd_siginfo), which begins with the number of the signal.
SIGNAL_RECORD = 128


def gone(pid: int) -> bool:
    """Whether a child has ended and was reaped."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_call_returns_what_the_child_worked_out() -> None:
    assert fork.call(lambda _report: b"x" * 1_000_000) == (b"x" * 1_000_000, 0)


def test_call_tells_of_a_child_that_ended_early() -> None:
    def work(_report: int) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b"never"

    assert fork.call(work) == (b"", signal.SIGKILL)


def test_call_kills_the_child_when_the_watch_fails() -> None:
    children: list[int] = []

    def watch() -> None:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        children.extend(int(word) for word in text.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fork.call(lambda _report: bytes(os.read(os.pipe()[0], 1)), watch)
    assert children and all(gone(pid) for pid in children)


def test_held_child_stays_until_the_block_ends() -> None:
    with fork.Held(lambda: None, "nothing") as pid:
        assert not gone(pid)
    assert gone(pid)


def test_held_raises_what_went_wrong_in_the_child() -> None:
    def fail() -> None:
        raise OSError(errno.EPERM, "no")

    with pytest.raises(PermissionError, match="no"), fork.Held(fail, "a try"):
        pass


def test_held_child_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChildProcessError, match="a try: its process died"):
        with fork.Held(lambda: os.kill(os.getpid(), signal.SIGKILL), "a try"):
            pass


def test_held_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "STEP_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match="a try took over"):
        with fork.Held(signal.pause, "a try"):
            pass


def test_signals_are_read_in_the_order_of_the_kernel() -> None:
    first = signal.SIGRTMIN
    numbers = [first + 1, first, first + 1, signal.SIGUSR1, first, signal.SIGUSR1]

    def work(_report: int) -> bytes:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        queue = pid_one.signal_queue(pid_one.signal_set(sorted(set(numbers))))
        for number in numbers:
            os.kill(os.getpid(), number)
        records = os.read(queue, 4096)
        assert not len(records) % SIGNAL_RECORD
        return records[::SIGNAL_RECORD]

    report, _ = fork.call(work)
    assert list(report) == [signal.SIGUSR1, first, first, first + 1, first + 1]


@pytest.mark.parametrize(
    ("wanted", "hard", "given"),
    [
        ((1024, 4096), -1, (1024, 4096)),
        ((1024, 4096), 4096, (1024, 4096)),
        ((1024, 4096), 2048, (1024, 2048)),
        ((-1, -1), 2048, (2048, 2048)),
        ((4096, -1), 2048, (2048, 2048)),
        ((0, -1), 2048, (0, 2048)),
    ],
)
def test_limits_are_reset_as_far_as_root_may(
    monkeypatch: pytest.MonkeyPatch,
    wanted: tuple[int, int],
    hard: int,
    given: tuple[int, int],
) -> None:
    """A root without CAP_SYS_RESOURCE can't raise a hard limit."""
    found: list[tuple[int, int]] = []

    def set_limit(_number: int, limit: tuple[int, int]) -> None:
        if 0 <= hard and not 0 <= limit[1] <= hard:
            raise ValueError("not allowed to raise maximum limit")
        found.append(limit)

    monkeypatch.setattr(resource, "setrlimit", set_limit)
    monkeypatch.setattr(resource, "getrlimit", lambda _number: (0, hard))
    inherited.set_limit(resource.RLIMIT_NOFILE, *wanted)
    assert found == [given]


def test_lock_of_another_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not flock.is_held(str(path))
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        assert flock.try_take(first)
        assert flock.is_held(str(path))
        assert not flock.try_take(second)
        assert not flock.take_until(second, time.monotonic() + 0.01, 0.001)
        assert flock.in_place(first, str(path))
        path.unlink()
        assert not flock.in_place(first, str(path))
    finally:
        os.close(first)
        os.close(second)


def test_values_and_names(tmp_path: Path) -> None:
    value = tmp_path / "value"
    assert files.read_value(str(value)) is None
    value.write_text("before, and longer\n")
    files.write_value(str(value), "12")
    assert files.read_value(str(value)) == "12"
    assert files.read_number(str(value)) == 12
    value.write_text("oom 1\noom_kill 3\n")
    assert files.read_field(str(value), "oom_kill") == 3
    (tmp_path / "b").mkdir()
    (tmp_path / "a").symlink_to("b")
    assert files.names(str(tmp_path)) == ["a", "b", "value"]
    assert files.directories(str(tmp_path)) == ["b"]
    assert files.names(str(value) + ".not") == files.directories(str(value) + ".not") == []


def test_programs_say_why_they_fail() -> None:
    assert program.check(["sh", "-c", "cat; printf %s $LC_ALL"]) == "C"
    assert program.run(["cat"], text="in").stdout == "in"
    with pytest.raises(HostError, match="sh -c .*: why; hint"):
        program.check(["sh", "-c", "echo why >&2; exit 3"], hint="hint")
    assert program.complaint(program.run(["sh", "-c", "exit 3"])) == "it ended with status 3"
    assert program.complaint(program.run(["sh", "-c", "printf '\\377' >&2; exit 1"])) == "\ufffd"


@pytest.fixture
def deaf() -> Iterator[None]:
    """A process whose caller ignores SIGCHLD and blocks another signal."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    yield
    signals.reset()


def test_no_program_runs_while_failures_count_as_success(deaf: None) -> None:
    assert subprocess.run(["false"], check=False).returncode == 0, "the control"
    for run in (program.run, program.check, program.start):
        with pytest.raises(HostError, match="false: its exit code would be lost"):
            run(["false"])
    signals.reset()
    assert program.run(["false"]).returncode == 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.parametrize("entry", ["module", "command"])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_no_entry_takes_signals_or_an_open_umask_from_its_caller(
    deaf: None, entry: str, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    mine = os.umask(umask)

    def note(*_arguments: object) -> dict[str, object]:
        found.extend((program.run(["false"]).returncode, os.umask(mine)))
        raise SystemExit

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(listing, "list_all", note)
    with pytest.raises(SystemExit):
        if entry == "module":
            shell.run(None, note)  # type: ignore[arg-type]
        else:
            main(["list"])
    assert found == [1, umask | 0o022]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain \u00e9", "plain \u00e9"), ("\x1b[2J\n", "\\x1b[2J\\n"), ("\u2028", "\\u2028")],
)
def test_text_that_commands_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert harmless(text) == shown


@pytest.mark.parametrize("races", [3, None])
def test_a_path_that_mounts_race_with_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, races: int | None
) -> None:
    """The kernel can't vouch for ".." while anything on the host is mounted or renamed."""
    left = [races if races is not None else -1]
    real = mounts.syscall

    def syscall(*arguments: Any, **options: Any) -> int:
        left[0] -= 1
        if left[0] != -1:
            raise BlockingIOError(errno.EAGAIN, "raced")
        return real(*arguments, **options)

    monkeypatch.setattr(mounts, "syscall", syscall)
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        if races is None:
            with pytest.raises(BlockingIOError):
                mounts.openat2(root, "..", os.O_PATH, mounts.RESOLVE_IN_ROOT)
        else:
            os.close(mounts.openat2(root, "..", os.O_PATH, mounts.RESOLVE_IN_ROOT))
    finally:
        os.close(root)
