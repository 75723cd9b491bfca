# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The launcher: revival, adoption, upgrade, stops, parallel work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from sandboxes import (
    SYSTEM_PYTHON,
    Host,
    Sandbox,
    children,
    processes_of,
    until,
    wait_dead,
    zygote_of,
)
from sandlot import store, wire
from sandlot.errors import LaunchError
from sandlot.kernel import mounts
from sandlot.launcher.client import Launcher
from sandlot.launcher.command import command
from sandlot.sandbox import runtime

SLEEP = ["sleep", "100000"]
ALWAYS = {"policy": "unless-stopped", "retries": 0}


def revived(box: Sandbox, before: int) -> int:
    """Pid of the next init once its workload runs."""
    box.until(lambda: pid_of(box) not in (0, before) and box.state() == "running")
    return box.init


def pid_of(box: Sandbox) -> int:
    running = box.running()
    return running.pid if running else 0


def identity(box: Sandbox) -> dict[str, Any]:
    kinds = ("user", "net", "uts", "ipc")
    inodes = {kind: os.stat(f"/proc/{box.init}/ns/{kind}").st_ino for kind in kinds}
    return {**inodes, "map": Path(f"/proc/{box.init}/uid_map").read_text()}


# -- crashes of init


def test_killed_init_is_revived_on_the_same_pins(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, restart=ALWAYS)
    before, pid = identity(box), box.init
    workload = box.workload
    os.kill(pid, signal.SIGKILL)
    wait_dead(workload)
    second = revived(box, pid)
    assert identity(box) == before
    assert box.status()["restarts"] == 1
    os.kill(second, signal.SIGKILL)
    revived(box, second)
    assert box.status()["restarts"] == 2


def test_killed_init_stays_dead_by_policy(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, restart={"policy": "no", "retries": 0})
    pid = box.init
    os.kill(pid, signal.SIGKILL)
    wait_dead(pid)
    box.until_final()
    assert box.status()["state"] == "crashed"
    assert box.running() is None


def test_killed_init_counts_as_a_failure(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, restart={"policy": "on-failure", "retries": 1})
    first = box.init
    os.kill(first, signal.SIGKILL)
    second = revived(box, first)
    os.kill(second, signal.SIGKILL)
    box.until(lambda: box.state() == "crashed")


def test_stopped_sandbox_is_not_revived(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, restart=ALWAYS)
    os.kill(box.init, signal.SIGKILL)
    box.stop()
    assert box.running() is None
    assert box.status()["final"]
    until(lambda: sleeps_without_timer(sandbox_host.launcher_pid()))
    assert box.running() is None


def sleeps_without_timer(pid: int) -> bool:
    """In poll with a timeout of -1, so that nothing is due any more."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return len(words) > 3 and int(words[3], 16) & 0xFFFFFFFF == 0xFFFFFFFF


# -- crashes of the launcher


def test_sandboxes_survive_their_launcher(fresh_host: Host) -> None:
    box = fresh_host.started("a", SLEEP, restart=ALWAYS)
    init, workload, old = box.init, box.workload, fresh_host.launcher_pid()
    os.kill(old, signal.SIGKILL)
    wait_dead(old)
    assert box.shell("echo on").stdout == b"on\n"
    new = fresh_host.launcher_pid()
    assert new != old
    assert (box.init, box.workload) == (init, workload)
    os.kill(init, signal.SIGKILL)
    assert revived(box, init)


def test_crash_without_a_launcher_is_noticed_by_the_next(fresh_host: Host) -> None:
    box = fresh_host.started("a", SLEEP, restart=ALWAYS)
    old, init, before = fresh_host.launcher_pid(), box.init, identity(box)
    os.kill(old, signal.SIGKILL)
    wait_dead(old)
    os.kill(init, signal.SIGKILL)
    wait_dead(init)
    fresh_host.launcher.ensure()
    revived(box, init)
    assert identity(box) == before


def test_stopped_sandboxes_stay_stopped_for_the_next_launcher(fresh_host: Host) -> None:
    stopped = fresh_host.started("a", SLEEP, restart=ALWAYS)
    ended = fresh_host.started("b", ["true"])
    stopped.stop()
    ended.until_final()
    fresh_host.launcher.quit()
    other = fresh_host.started("c", SLEEP)
    assert other.running()
    assert stopped.running() is None
    assert ended.running() is None


def test_upgrade_is_in_place(fresh_host: Host) -> None:
    boxes = [fresh_host.started(name, SLEEP, restart=ALWAYS) for name in ("a", "b")]
    inits, pid = [box.init for box in boxes], fresh_host.launcher_pid()
    started = Path(f"/proc/{pid}/stat").read_text().split()[21]
    version = Path(fresh_host.paths.lib, "sandlot", "__init__.py")
    text = version.read_text().replace('__version__ = "', '__version__ = "9.')
    store.replace(str(version), text.encode())
    fresh_host.launcher.upgrade()
    answer = fresh_host.launcher.ping()
    assert answer is not None
    assert answer["version"].startswith("9.")
    assert fresh_host.launcher_pid() == pid
    assert Path(f"/proc/{pid}/stat").read_text().split()[21] == started
    assert [box.init for box in boxes] == inits
    os.kill(inits[0], signal.SIGKILL)
    revived(boxes[0], inits[0])
    assert fresh_host.started("c", SLEEP).running()


def test_upgrade_waits_for_work_under_way(fresh_host: Host) -> None:
    fresh_host.launcher.ensure()
    boxes = [fresh_host.sandbox(f"n{i}", SLEEP) for i in range(12)]
    names = [box.name for box in boxes]
    assert not fresh_host.launcher.create(names)
    failures: list[Any] = []
    thread = threading.Thread(target=lambda: failures.append(fresh_host.launcher.start(names)))
    thread.start()
    Launcher(fresh_host.paths).upgrade()
    thread.join()
    assert failures == [{}]
    assert all(box.running() for box in boxes)


@pytest.mark.parametrize("broken", ["connect", "send"])
def test_request_is_made_again_when_the_launcher_ends_before_it_reads_it(
    fresh_host: Host, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """An upgrade closes connections that it has accepted and not yet read."""
    box = fresh_host.created("a", SLEEP)
    monkeypatch.setattr(fresh_host.launcher, "ensure", lambda: None)
    call, calls = getattr(wire, broken), []

    def broken_once(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise BrokenPipeError
        return call(*arguments, **options)

    for operation in (fresh_host.launcher.start, fresh_host.launcher.stop):
        calls.clear()
        monkeypatch.setattr(wire, broken, broken_once)
        assert operation(["a"]) == {} and len(calls) == 2
        monkeypatch.setattr(wire, broken, call)
    assert not box.running()
    monkeypatch.undo()


def test_only_one_launcher_serves_a_root(fresh_host: Host) -> None:
    threads = [threading.Thread(target=Launcher(fresh_host.paths).ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Those that came too late have gone.
    until(lambda: len(processes_of(fresh_host.root)) == 2)
    pid = fresh_host.launcher_pid()
    assert processes_of(fresh_host.root) == sorted([pid, zygote_of(pid)])


def test_launcher_that_comes_late_does_not_serve(fresh_host: Host) -> None:
    def late() -> int:
        return subprocess.Popen(command(fresh_host.paths, SYSTEM_PYTHON), stderr=log).pid

    fresh_host.launcher.ensure()
    with open(fresh_host.root / "log", "w") as log:
        # A teardown ends the launcher and removes its directory.
        with fresh_host.launcher.kept_out():
            assert os.waitpid(late(), 0)[1] == 0
            until(lambda: not processes_of(fresh_host.root))
            shutil.rmtree(fresh_host.paths.run)
        assert os.waitpid(late(), 0)[1] == 0
        assert not os.path.exists(fresh_host.paths.run)
        os.mkdir(fresh_host.paths.run, mode=0o700)
        pid = late()
        until(fresh_host.launcher.ping)
        assert fresh_host.launcher_pid() == pid
        fresh_host.launcher.quit()
        assert os.waitpid(pid, 0)[1] == 0
    reasons = Path(log.name).read_text().splitlines()
    assert reasons == ["another launcher serves this host", "the runtime has been removed"]


def test_killed_zygote_is_replaced(fresh_host: Host) -> None:
    box = fresh_host.started("a", SLEEP, restart=ALWAYS)
    pid, init = fresh_host.launcher_pid(), box.init
    zygote = zygote_of(pid)
    os.kill(zygote, signal.SIGKILL)
    until(lambda: zygote_of(pid) not in (0, zygote), what="the launcher starts anew")
    assert fresh_host.launcher_pid() == pid
    assert box.init == init
    assert fresh_host.started("b", SLEEP).running()


def test_zygote_ends_with_the_launcher_and_holds_nothing(fresh_host: Host) -> None:
    fresh_host.started("a", SLEEP)
    pid = fresh_host.launcher_pid()
    zygote = zygote_of(pid)
    until(lambda: children(zygote) == [])
    assert len(os.listdir(f"/proc/{zygote}/fd")) == 4
    os.kill(pid, signal.SIGKILL)
    wait_dead(zygote)


def test_launcher_ends_on_sigterm(fresh_host: Host) -> None:
    box = fresh_host.started("a", SLEEP)
    pid = fresh_host.launcher_pid()
    os.kill(pid, signal.SIGTERM)
    wait_dead(pid)
    assert box.running()
    assert fresh_host.launcher_pid() != pid


# -- stop


def test_stop_of_a_sandbox_that_waits_to_restart(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["false"], restart=ALWAYS)
    box.until(lambda: box.state() == "backoff")
    box.stop()
    assert box.status()["final"]


def test_frozen_init_is_killed(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, restart=ALWAYS, stop={"signal": 15, "timeout": 1.0})
    pid = box.init
    os.kill(pid, signal.SIGSTOP)
    before = time.monotonic()
    box.stop()
    assert time.monotonic() - before < 10
    wait_dead(pid)
    assert box.status()["final"]
    assert box.running() is None


@pytest.mark.parametrize("answer", [None, b"garbage", b"ok", b"\xff" * 100])
def test_init_that_lies_is_killed(sandbox_host: Host, answer: bytes | None) -> None:
    """A socket of the test in place of init's: no answer, nonsense, or a promise not kept."""
    box = sandbox_host.started("a", SLEEP, stop={"signal": 15, "timeout": 0.2})
    pid = box.init
    listener = wire.listen(box.paths.socket)

    def serve() -> None:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        if answer is not None:
            os.write(fd, answer)
        until(lambda: box.running() is None)
        os.close(fd)

    listener.setblocking(True)
    thread = threading.Thread(target=serve)
    thread.start()
    box.stop()
    wait_dead(pid)
    thread.join()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff" * 600,
        b'{"final": "yes"}',
        b'{"state": {}, "exit_code": "x"}',
        b'{"restarts": -5, "since": true, "pid": 1e400}',
        b"[" * 4000,
    ],
)
def test_nonsense_in_the_status_file_is_survived(sandbox_host: Host, content: bytes) -> None:
    box = sandbox_host.started("a", SLEEP, restart=ALWAYS)
    pid = box.init
    Path(box.paths.status).write_bytes(content)
    for value in box.status().values():
        assert isinstance(value, (int, float, str))
    os.kill(pid, signal.SIGKILL)
    box.until(lambda: pid_of(box) not in (0, pid))
    Path(box.paths.status).write_bytes(content)
    box.stop()
    assert box.running() is None


def test_destroy_of_a_running_sandbox_is_refused(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    with pytest.raises(LaunchError, match="stop it first"):
        box.destroy()
    assert runtime.pinned(sandbox_host.paths.sandbox("a")) == {"user", "net", "uts", "ipc"}


def test_everything_may_be_done_twice(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", SLEEP)
    before = {kind: os.stat(box.paths.pin(kind)).st_ino for kind in ("net", "user")}
    box.create()
    assert {kind: os.stat(box.paths.pin(kind)).st_ino for kind in ("net", "user")} == before
    box.start()
    init = box.init
    box.start()
    assert box.init == init
    for operation in (box.stop, box.stop, box.destroy, box.destroy):
        operation()
    assert runtime.pinned(sandbox_host.paths.sandbox("a")) == set()


def test_start_right_after_the_end(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", ["true"])
    for _ in range(20):
        started = time.time()
        box.start()
        assert box.until_final()["since"] >= started


@pytest.mark.parametrize("missing", ["user", "net", "uts", "ipc"])
def test_partial_pins(sandbox_host: Host, missing: str) -> None:
    box = sandbox_host.created("a", SLEEP)
    mounts.umount(box.paths.pin(missing))
    with pytest.raises(LaunchError, match=f"{missing} are not pinned"):
        box.start()
    box.create()
    assert box.start().running()


def test_doubled_pins_are_removed(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", SLEEP)
    for _ in range(3):
        mounts.mount(box.paths.pin("net"), box.paths.pin("net"), flags=mounts.MS_BIND)
    box.destroy()
    assert box.paths.run not in Path("/proc/self/mountinfo").read_text()


def test_recycled_pid_is_not_taken_for_init(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    record = store.read(box.paths.init)
    assert record is not None
    # Start times are in ticks of a hundredth of a second (proc(5)).
    ticks = int(record["start_time"]) + 1
    until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > ticks)
    stranger = subprocess.Popen(SLEEP)
    try:
        store.write(box.paths.init, {**record, "pid": stranger.pid})
        assert box.running() is None
        assert runtime.open_init(sandbox_host.paths.sandbox("a")) is None
        store.write(box.paths.init, {**record, "pid": stranger.pid, "start_time": None})
        assert box.running() is None
        store.write(box.paths.init, {**record, "boot_id": "another"})
        assert box.running() is None
        store.write(box.paths.init, record)
        box.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# -- clients


@pytest.mark.parametrize("request_", [{}, {"op": "x"}, {"op": "start"}, [1], 5, {"op": ["start"]}])
def test_nonsense_does_not_hurt_the_launcher(sandbox_host: Host, request_: Any) -> None:
    pid = sandbox_host.launcher_pid()
    with wire.connect(sandbox_host.paths.launcher_socket) as connection:
        wire.send(connection, request_)
        wire.receive(connection)
    with wire.connect(sandbox_host.paths.launcher_socket) as connection:
        connection.send(b"\x00\xff")
    with wire.connect(sandbox_host.paths.launcher_socket):
        pass
    assert sandbox_host.launcher_pid() == pid
    for name in set(runtime.names(sandbox_host.paths)) - {"a"}:
        assert name in sandbox_host.boxes or not name


def test_unknown_sandbox_is_an_error(sandbox_host: Host) -> None:
    failures = sandbox_host.launcher.start(["nobody"])
    assert "launch.json" in str(failures["nobody"])
    assert not sandbox_host.launcher.stop(["nobody-either"])
    assert not sandbox_host.launcher.destroy(["nobody-either"])


def collect(results: list[Any], operation: Callable[[Any], Any], names: list[str]) -> None:
    results.append(operation(names))


def test_parallel_creates_starts_and_stops(sandbox_host: Host) -> None:
    boxes = [sandbox_host.sandbox(f"n{i}", SLEEP) for i in range(32)]
    names = [box.name for box in boxes]
    operations: list[Callable[[Any], Any]] = [
        sandbox_host.launcher.create,
        sandbox_host.launcher.start,
    ]
    for operation in operations:
        results: list[Any] = []
        threads = [
            threading.Thread(target=collect, args=(results, operation, [name])) for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [{}] * 32
    assert len({os.stat(f"/proc/{box.init}/ns/net").st_ino for box in boxes}) == 32
    assert not sandbox_host.launcher.stop(names)
    assert all(box.running() is None for box in boxes)


def test_operations_on_one_sandbox_are_in_order(sandbox_host: Host) -> None:
    box = sandbox_host.sandbox("a", SLEEP)
    connections = []
    for operation in ("create", "start", "stop", "start", "stop", "destroy") * 4:
        connection = wire.connect(sandbox_host.paths.launcher_socket)
        wire.send(connection, {"op": operation, "name": "a"})
        connections.append(connection)
    answers = [wire.receive(connection)[0] for connection in connections]
    for connection in connections:
        connection.close()
    assert answers == [{}] * 24
    assert box.running() is None
