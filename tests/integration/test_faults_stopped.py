# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Processes of ours that are stopped, frozen or held by a debugger: nobody waits without end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox, wait_readable
from sandboxes import SUPERVISOR, until, wait_dead, zygote_of
from sandlot import cgroups, lock
from sandlot.errors import LaunchError, SandlotError
from sandlot.host import doctor, facts
from sandlot.images import workspace
from sandlot.kernel import processes
from sandlot.launcher import client, unresponsive, worker
from sandlot.launcher.client import Launcher
from sandlot.reach import command as execution
from sandlot.sandbox import live, runtime

pytestmark = needs_root

PTRACE_ATTACH = 16
STOP_SLOWLY = ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"]


def launcher_pid(host: Deployment) -> int:
    return int((Launcher(host.paths).ping() or {})["pid"])


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: processes.is_stopped(pid))


def command(host: Deployment, *words: str) -> str:
    argv = [host.paths.command, *words]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stopped_launcher(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converged(sandbox("a"))
    pid, init = launcher_pid(host), host.pid("a")
    stop(pid)
    with monkeypatch.context() as impatient:
        impatient.setattr(client, "PING_SECONDS", 0.5)
        with pytest.raises(LaunchError, match=rf"process {pid} \(sandlot\), which is stopped"):
            Launcher(host.paths).ping()
    assert "running" in command(host, "list")
    assert f"pid: {init}" in command(host, "inspect", "a")
    found = {each.name: each for each in doctor.examine(host.paths, facts.gather(host.paths))}
    assert found["launcher"].detail.startswith("is stopped")
    assert processes.is_stopped(pid)
    assert host.run(sandbox("a")).actions == ["launcher: start"]
    for specs in (
        [sandbox("a"), sandbox("b")],
        [sandbox("a", state="stopped"), sandbox("b")],
        [sandbox("a", state="absent"), sandbox("b")],
    ):
        stop(pid)
        host.converged(*specs)
    stop(pid)
    Launcher(host.paths).upgrade()
    assert launcher_pid(host) == pid
    # Last what the fixture does: all sandboxes and the runtime are removed.
    stop(pid)


def test_a_launcher_that_a_debugger_holds_is_replaced(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PING_SECONDS", 1.0)
    host.converged(sandbox("a"))
    pid, init = launcher_pid(host), host.pid("a")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_ATTACH, pid, None, None) == 0
    os.waitpid(pid, 0)
    assert processes.state(pid) == "t"
    host.converged(sandbox("a"), sandbox("b"))
    os.waitpid(pid, 0)
    assert launcher_pid(host) != pid and host.pid("a") == init


def test_a_process_that_strace_follows_is_not_stopped() -> None:
    argv = ["strace", "-f", "-o", "/dev/null", "dd", "if=/dev/zero", "of=/dev/null", "bs=1"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as tracer:
        busy = until(lambda: traced(tracer.pid))
        try:
            for dummy in range(20):
                until(lambda: processes.state(busy) == "t")
                assert not processes.is_stopped(busy)
            # The tracer cannot continue the process any more.
            stop(tracer.pid)
            eventually(lambda: processes.state(busy) == "t")
            assert processes.is_stopped(busy)
        finally:
            os.kill(busy, signal.SIGKILL)
            tracer.kill()


def traced(tracer: int) -> int | None:
    """The child of strace that runs dd; strace has others while it begins."""
    return next((pid for pid in processes.children(tracer) if processes.name(pid) == "dd"), None)


@contextlib.contextmanager
def frozen(directory: str) -> Iterator[None]:
    """A cgroup of version 1's freezer, frozen."""
    state = Path(directory, "freezer.state")
    state.write_text("FROZEN")
    eventually(lambda: state.read_text() == "FROZEN\n")
    try:
        yield
    finally:
        state.write_text("THAWED")


FREEZER = cgroups.detect().having("freezer")
needs_freezer = pytest.mark.skipif(FREEZER is None, reason="version 2 kills what is frozen")


@needs_freezer
def test_a_launcher_that_nothing_ends_is_named(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PING_SECONDS", 0.5)
    monkeypatch.setattr(unresponsive, "KILL_SECONDS", 0.5)
    host.converged(sandbox("a"))
    pid = launcher_pid(host)
    assert FREEZER is not None
    directory = f"{FREEZER.directory}/test-{host.paths.tag}"
    os.mkdir(directory)
    try:
        Path(directory, "cgroup.procs").write_text(str(pid))
        with frozen(directory):
            with pytest.raises(SandlotError, match=rf"process {pid} \(.*has survived SIGKILL"):
                host.run(sandbox("a"), sandbox("b"))
        wait_dead(pid)
    finally:
        eventually(lambda: not Path(directory, "cgroup.procs").read_text())
        os.rmdir(directory)
    host.converged(sandbox("a"), sandbox("b"))


def test_a_stopped_zygote_is_continued_and_ends_with_its_launcher(host: Deployment) -> None:
    host.converged(sandbox("a"))
    launcher = launcher_pid(host)
    zygote = zygote_of(launcher)
    stop(zygote)
    host.converged(sandbox("a"), sandbox("b"))
    assert zygote_of(launcher) == zygote
    stop(zygote)
    os.kill(launcher, signal.SIGKILL)
    wait_dead(zygote)
    host.converged(sandbox("a"), sandbox("b"))


def test_a_request_looks_at_the_launcher_and_at_no_init(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    pid, looked = launcher_pid(host), []
    look = processes.name_and_state
    monkeypatch.setattr(
        processes, "name_and_state", lambda number: looked.append(number) or look(number)
    )
    client.Launcher(host.paths).ensure()
    assert looked == [pid, zygote_of(pid)]
    # An older launcher names no processes of its own.
    unresponsive.wake_own(host.paths, None)
    assert {host.pid("a"), host.pid("b")} <= {*looked}


def test_a_stopped_worker_is_continued(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.2)
    slow = sandbox("a", command=STOP_SLOWLY, stop_timeout=1)
    host.converged(slow)
    launcher = launcher_pid(host)
    others = set(processes.children(launcher))
    results: list[Any] = []
    run = threading.Thread(target=lambda: results.append(host.run({**slow, "state": "stopped"})))
    run.start()
    eventually(lambda: set(processes.children(launcher)) > others)
    for pid in set(processes.children(launcher)) - others:
        os.kill(pid, signal.SIGSTOP)
    run.join(60)
    assert results and not results[0].failed


def test_a_stopped_init(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "START_SECONDS", 0.5)
    monkeypatch.setattr(live, "ANSWER_SECONDS", 0.5)
    spec = sandbox("a", restart_policy="no")
    host.converged(spec)
    init = host.pid("a")
    assert execution.execute(host.paths, "a", ["true"]) == 0
    assert SUPERVISOR in map(processes.name, processes.children(init))
    stop(init)
    # The supervisor of the command before is awake.
    with pytest.raises(SandlotError, match="does not answer; .* sandlot restart a"):
        execution.execute(host.paths, "a", ["true"])
    assert "running" in command(host, "list")
    assert f"pid: {init}" in command(host, "inspect", "a")
    assert command(host, "logs", "a") == ""
    assert host.run(spec).actions == []
    changed = {**spec, "restart_policy": "always"}
    assert "run again with restart" in host.run(changed).failed["a"]
    assert host.pid("a") == init
    assert not host.run({**changed, "restart": True}).failed
    host.converged(changed)
    assert execution.execute(host.paths, "a", ["true"]) == 0
    stop(host.pid("a"))
    host.converged({**changed, "state": "stopped"})
    host.converged({**changed, "state": "started"})
    # The fixture removes it so.
    stop(host.pid("a"))


@needs_freezer
def test_a_frozen_sandbox_is_stopped_by_its_own_signal(host: Deployment) -> None:
    argv = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 1 & wait; done"]
    host.converged(sandbox("a", command=argv), sandbox("control"), sandbox("b"))
    assert FREEZER is not None

    def directory(name: str) -> str:
        assert FREEZER is not None
        return FREEZER.sandbox(host.paths, name)

    with frozen(directory("control")):
        pidfd = os.pidfd_open(host.pid("control"))
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with pytest.raises(AssertionError, match="timed out"):
            wait_readable(pidfd, 0.5)
    wait_readable(pidfd)
    os.close(pidfd)
    for name in ("a", "b"):
        Path(directory(name), "freezer.state").write_text("FROZEN")
    assert "running" in command(host, "list")
    command(host, "stop", "a")
    assert runtime.status(host.paths.sandbox("a"))["exit_code"] == 7
    # Frozen it is removed as well.
    host.converged(sandbox("a", state="stopped"), purge=True)


# -- locks


def stopped_holder(entered: contextlib.AbstractContextManager[Any]) -> int:
    """A process that is stopped with a lock of ours."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with entered:
            os.write(writer, b"x")
            signal.pause()
        os._exit(0)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)
    stop(pid)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_the_lock_of_a_stopped_run(host: Deployment) -> None:
    pid = stopped_holder(lock.exclusive(host.paths))
    words = rf"process {pid} \(.*\), which is stopped, has held .*kill -CONT {pid}"
    with pytest.raises(SandlotError, match=words), lock.exclusive(host.paths, wait=0.3):
        pass
    assert command(host, "list")
    end(pid)
    host.converged(sandbox("a"))


def test_an_image_that_a_stopped_run_makes(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "STOPPED_SECONDS", 0.3)
    pid = stopped_holder(workspace.temporary(host.paths, "key"))
    words = rf"process {pid} \(.*\), which is stopped, makes .*kill -CONT {pid}"
    with pytest.raises(SandlotError, match=words), workspace.temporary(host.paths, "key"):
        pass
    end(pid)
    with workspace.temporary(host.paths, "key") as path:
        assert os.listdir(path) == []


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    import fcntl

    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


def test_a_sandbox_that_a_stopped_worker_is_at(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "WAIT_SECONDS", 0.3)
    box = host.paths.sandbox("a")
    os.makedirs(box.run)
    pid = stopped_holder(locked(box.run))
    with pytest.raises(LaunchError, match=rf"a: process {pid} \(.*\), which is stopped, has been"):
        worker._lock(box, wait=True)
    end(pid)
    assert worker._lock(box, wait=True)
    os.rmdir(box.run)
