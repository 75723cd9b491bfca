# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Workers and launchers killed in the middle, and that nothing is left over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from fingerprint import diff, fingerprint
from sandboxes import (
    Host,
    Sandbox,
    children,
    open_host,
    status_or_empty,
    until,
    zygote_of,
)
from sandlot import cgroups
from sandlot.errors import LaunchError, StateError
from sandlot.sandbox import runtime

SLEEP = ["sleep", "100000"]
ALWAYS = {"policy": "unless-stopped", "retries": 0}


# -- killed workers


def killed_after(host: Host, operation: Callable[[list[str]], Any], delay: float) -> bool:
    """Run ``operation`` on "a" and kill its worker ``delay`` seconds after the fork."""
    launcher = host.launcher_pid()
    known = set(children(launcher))
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(operation(["a"])))
    thread.start()
    workers: set[int] = set()
    while not workers and thread.is_alive():
        workers = set(children(launcher)) - known
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline and thread.is_alive():
        workers |= set(children(launcher)) - known
    for pid in workers:
        if status_or_empty(pid).get("Name") == "sandlot":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    thread.join()
    return bool(results and results[0])


@pytest.mark.parametrize("round_number", range(24))
def test_killed_worker_is_made_good_by_the_next_run(sandbox_host: Host, round_number: int) -> None:
    delay = round_number * 0.0015
    box = sandbox_host.sandbox("a", SLEEP, restart=ALWAYS)
    launcher = sandbox_host.launcher
    for operation in (launcher.create, launcher.start, launcher.stop, launcher.destroy):
        killed_after(sandbox_host, operation, delay)
        failures = operation(["a"])
        assert not failures, (operation, failures)
        if operation == launcher.start:
            box.until(lambda: box.running() and box.state() == "running")
            assert box.shell("ip link show lo | grep -c UP").stdout == b"1\n"
    assert box.running() is None
    assert runtime.pinned(sandbox_host.paths.sandbox("a")) == set()
    until(lambda: processes_of(box) == [])


def processes_of(box: Sandbox) -> list[int]:
    """Processes that run as the sandbox's root."""
    uid = str(box.config["ids"]["uid"])
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        fields = status_or_empty(int(pid))
        if fields.get("Uid", "").split()[:1] == [uid] and not fields["State"].startswith("Z"):
            found.append(int(pid))
    return found


def test_launcher_killed_in_the_middle(fresh_host: Host) -> None:
    names = [fresh_host.sandbox(f"n{i}", SLEEP, restart=ALWAYS).name for i in range(8)]
    launcher = fresh_host.launcher
    for operation in (launcher.create, launcher.start, launcher.stop, launcher.destroy):
        pid = fresh_host.launcher_pid()
        thread = threading.Thread(target=attempt, args=(operation, names))
        thread.start()
        until(lambda p=pid, t=thread: len(children(p)) > 2 or not t.is_alive())
        os.kill(pid, signal.SIGKILL)
        thread.join()
        assert not operation(names)
    assert not any(box.running() for box in fresh_host.boxes.values())


def attempt(operation: Callable[[list[str]], Any], names: list[str]) -> None:
    try:
        operation(names)
    except (LaunchError, OSError):
        return


# -- nothing is left over


def test_two_hundred_rounds_leave_nothing(sandbox_host: Host) -> None:
    box = sandbox_host.sandbox("a", SLEEP)

    def rounds(count: int) -> None:
        for _ in range(count):
            for operation in (box.create, box.start, box.stop, box.destroy):
                operation()

    pid = sandbox_host.launcher_pid()
    rounds(10)
    before, table = resources(pid), Path("/proc/self/mountinfo").read_text()
    rounds(190)
    after = resources(pid)
    assert after["fds"] == before["fds"]
    assert after["memory"] <= before["memory"] + 256, (before, after)
    assert ours(Path("/proc/self/mountinfo").read_text(), box) == ours(table, box) == []
    until(lambda: children(pid) == [zygote_of(pid)])
    until(lambda: children(zygote_of(pid)) == [])
    assert processes_of(box) == []


def ours(table: str, box: Sandbox) -> list[str]:
    return [line for line in table.splitlines() if box.host.paths.root in line]


def resources(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))
    return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "memory": memory}


def test_host_is_as_before(tmp_path: Path) -> None:
    before = fingerprint()
    host = open_host()
    try:
        for name in ("a", "b"):
            host.started(name, SLEEP, restart=ALWAYS, time_offset={"monotonic": 5, "boottime": 5})
        os.kill(host.boxes["a"].init, signal.SIGKILL)
    finally:
        host.close()
    changes = diff(before, fingerprint())
    assert [line for line in changes if str(host.root) in line] == []


def test_a_damaged_identity_of_one_init_stops_neither_launcher_nor_others(fresh_host: Host) -> None:
    damaged = fresh_host.started("damaged", SLEEP)
    other = fresh_host.started("other", SLEEP)
    damaged_pid, other_pid = damaged.init, other.init
    path = fresh_host.paths.sandbox("damaged").init
    whole = Path(path).read_bytes()
    Path(path).write_text('{"schema": 1}\n')
    fresh_host.launcher.quit()
    fresh_host.launcher.ensure()
    assert other.init == other_pid
    with pytest.raises(StateError, match="names no process"):
        damaged.running()
    assert "names no process" in str(fresh_host.launcher.start(["damaged"])["damaged"])
    Path(path).write_bytes(whole)
    assert damaged.init == damaged_pid


@contextlib.contextmanager
def without_processes(pid: int, name: str) -> Iterator[None]:
    """``pid`` can't fork, as in a unit of systemd that has reached its TasksMax."""
    pids = cgroups.detect().having("pids")
    assert pids is not None
    home, directory = Path(pids.directory), Path(pids.directory, name)
    directory.mkdir()
    (directory / "pids.max").write_text("0")
    (directory / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        (home / "cgroup.procs").write_text(str(pid))
        directory.rmdir()


def test_a_launcher_that_can_not_fork_goes_on(fresh_host: Host) -> None:
    box = fresh_host.started("a", SLEEP, restart=ALWAYS)
    launcher, before = fresh_host.launcher_pid(), box.init
    with without_processes(launcher, f"test-{fresh_host.paths.tag}"):
        error = fresh_host.launcher.stop(["a"])["a"]
        assert "can't start a process" in error.message and "pids.max" in error.hint
        for dummy in range(6):
            assert "can't start a process" in fresh_host.launcher.start(["a"])["a"].message
        # Joiners without a worker are collected.
        until(lambda: len(children(zygote_of(launcher))) <= 2)
        # It watches init still, and revives it once it can.
        os.kill(before, signal.SIGKILL)
    until(lambda: box.running() is not None and box.init != before)
    assert fresh_host.launcher_pid() == launcher
