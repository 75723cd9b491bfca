# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A supervisor saves its state after each turn, and another one goes on from it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sandlot import wire
from sandlot.init import child, memory, reaper, resume
from sandlot.init.health import CHECK
from sandlot.init.memory import Memory
from sandlot.init.supervisor import MAIN, Supervisor
from sandlot.kernel import calls, libc, pid_one

PACE = {"interval": 30.0, "timeout": 9.0, "retries": 3, "start_period": 0.0, "action": "none"}
CONFIG = {
    **{"argv": ["/w"], "env": {"A": "a"}, "cwd": "/", "user": None, "rlimits": {}, "login": []},
    **{"restart": {"policy": "always", "retries": 0}, "stop": {"signal": 15, "timeout": 9.0}},
    **{"log_max_size": 1 << 20, "restarts": 2, "healthcheck": {**PACE, "argv": ["/check"]}},
}
NO_PROCESS = 1 << 22  # beyond pid_max


class Life:
    """A supervisor whose processes are numbers, and the next ones."""

    def __init__(self, place: Path, config: Mapping[str, Any]) -> None:
        self.place = place
        self.memory = Memory(calls.Buffer().shared)
        self.memory.open()
        self.listener = wire.listen(str(place / "socket"))
        opened = [self.file(name) for name in ("status", "health", "log.0", "log.1", "null")]
        self.files = {
            **dict(zip(("status", "health"), opened)),
            **{"sinks": opened[2:4], "null": opened[4], "named": ()},
            **{"pts": -1, "listener": self.listener.fileno()},
        }
        self.spawned: list[list[str]] = []
        self.reports: dict[int, int] = {}
        # The stdio that commands have inherited.
        self.outputs: list[int] = []
        peer, self.builder = wire.pair()
        self.now = Supervisor(
            self.memory, {**config, "logs": [("ring", 2, (0, 0))]}, {**self.files}
        )
        self.now.begin(peer)

    def close(self) -> None:
        now = self.now
        now.save()
        now.exec.rest()
        sockets = [self.builder, self.listener, *now.exec._connections.values()]
        for sock in [*sockets, *([now.peer] if now.peer else [])]:
            sock.close()
        memory.close_retired()

    def file(self, name: str) -> int:
        return os.open(self.place / name, os.O_RDWR | os.O_CREAT)

    def spawn(self, _clone: Any, command: Any, stdio: Sequence[int], *, tty: bool = False) -> Any:
        pid = NO_PROCESS + len(self.spawned)
        self.spawned.append(command["argv"])
        self.outputs += [os.dup(fd) for fd in stdio if fd >= 0]
        at = memory.PROCESSES // 4 + 2 * len(self.spawned)
        self.memory.ints[at], self.memory.ints[at + 1] = pid, memory.RUNNING
        self.memory.ints[memory.LAST] = at + 2
        report, self.reports[pid] = os.pipe()
        os.set_blocking(report, False)
        return child.Child(pid, report)

    def executed(self, pid: int) -> None:
        """The process has executed its command."""
        os.close(self.reports.pop(pid))
        self.turn()

    def ended(self, pid: int, status: int) -> None:
        for at, known, dummy in list(self.memory._known()):
            if known == pid:
                self.memory.ints[at + 1] = status
        self.now.reap()
        self.now.save()

    def turn(self) -> None:
        self.now.loop.turn(0.0)
        self.now.save()

    def replace(self) -> None:
        """Another supervisor goes on, as after an end by SIGKILL."""
        old = resume.state(self.now)
        self.now.save()
        self.succeed()
        new = resume.state(self.now)
        checking = old["health"] is not None and old["health"][-1]
        if checking:
            # It is made again.
            assert dict((name, call) for name, _, call in new["timers"])[CHECK] == "check"
            for state in (old, new):
                state["health"] = state["health"][:-1]
                state["timers"] = [timer for timer in state["timers"] if timer[0] != CHECK]
        assert new == old

    def succeed(self) -> None:
        """Another supervisor begins with what is saved."""
        # The descriptors stay open, as all supervisors share them.
        for sock in [self.now.peer, self.now.exec._listener, *self.now.exec._connections.values()]:
            if sock is not None:
                sock.detach()
        config, files = self.memory.load(memory.CONFIG)
        self.now = Supervisor(self.memory, config, files)
        resume.restore(self.now, self.memory.load(memory.STATE))


def descriptors() -> set[int]:
    with os.scandir("/proc/self/fd") as entries:
        numbers = [int(entry.name) for entry in entries]
    # But that of the directory.
    return {fd for fd in numbers if os.path.lexists(f"/proc/self/fd/{fd}")}


@pytest.fixture
def alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []
    before = descriptors()

    def begin(**changes: Any) -> Life:
        lives.append(Life(tmp_path, {**CONFIG, **changes}))
        monkeypatch.setattr(child, "spawn", lives[-1].spawn)
        return lives[-1]

    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(os, "killpg", lambda pid, number: sent.append((-pid, number)))
    yield begin
    assert all(abs(pid) >= NO_PROCESS for pid, _ in sent)
    for life in lives:
        life.close()
    # The rest has no owners.
    for fd in descriptors() - before:
        os.close(fd)


def running(life: Life) -> int:
    life.turn()
    main = life.now.main
    assert main is not None
    life.executed(main.pid)
    assert life.now.status.values["state"] == "running"
    return main.pid


def test_before_the_start_and_before_exec(alive: Callable[..., Life]) -> None:
    life = alive()
    life.replace()
    life.turn()
    life.replace()
    assert life.now.main is not None and life.spawned == [["/w"]]
    life.executed(life.now.main.pid)
    assert wire.receive(life.builder)[0] == {"started": 1}
    assert life.now.status.values["state"] == "running" and life.now.peer is None


def test_output_of_the_workload_goes_on(alive: Callable[..., Life]) -> None:
    life = alive(healthcheck=None)
    running(life)
    for text in (b"one\ntw", b"o\nth", b"ree\n"):
        os.write(life.outputs[1], text)
        life.turn()
        life.replace()
    lines = (life.place / "log.0").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == ["one", "two", "three"]


def test_a_check_is_made_again(alive: Callable[..., Life]) -> None:
    life = alive()
    running(life)
    life.now.loop.at(CHECK, 0.0, life.now.health.check)  # type: ignore[union-attr]
    life.turn()
    life.replace()
    life.turn()
    assert life.spawned == [["/w"], ["/check"], ["/check"]]
    pid = NO_PROCESS + 2
    life.executed(pid)
    life.ended(pid, 0)
    life.replace()
    assert life.now.status.values["health"] == "healthy"
    ((_, due, call),) = life.now.loop.timers
    assert call == "check" and 29 < due - time.monotonic() <= 30


def test_the_end_of_the_workload_is_learned_later(alive: Callable[..., Life]) -> None:
    life = alive(healthcheck=None)
    pid = running(life)
    life.replace()
    life.ended(pid, 3 << 8)
    assert life.now.status.values["exit_code"] == 3 and life.now.main is None
    assert [(name, call) for name, _, call in life.now.loop.timers] == [(MAIN, "kill_rest")]
    life.replace()
    life.now.drained()
    life.replace()
    assert [(name, call) for name, _, call in life.now.loop.timers] == [(MAIN, "start")]
    assert life.now.status.values["restarts"] == 3 and life.memory.ends() == []


def test_a_stop_goes_on(alive: Callable[..., Life]) -> None:
    life = alive(healthcheck=None)
    pid = running(life)
    life.now.stop()
    life.replace()
    assert life.now.policy.stopping
    assert [(name, call) for name, _, call in life.now.loop.timers] == [(MAIN, "kill_all")]
    life.ended(pid, 15)
    assert life.now.done and life.now.status.values["state"] == "stopped"
    assert life.now.status.values["final"] is True
    life.replace()
    assert life.now.done


def test_an_unhealthy_run_is_started_again(alive: Callable[..., Life]) -> None:
    life = alive(restart={"policy": "no", "retries": 0})
    pid = running(life)
    life.now.condemn(3, proven=True)
    life.replace()
    life.ended(pid, 15)
    life.replace()
    life.now.drained()
    assert [(name, call) for name, _, call in life.now.loop.timers] == [(MAIN, "start")]


def test_a_preparation_and_a_held_start(alive: Callable[..., Life]) -> None:
    life = alive(first_start=["/prepare"], healthcheck=None)
    life.replace()
    life.turn()
    life.replace()
    assert life.spawned == [["/prepare"]] and life.now.preparing
    life.ended(NO_PROCESS, 0)
    life.replace()
    life.turn()
    assert life.spawned == [["/prepare"], ["/w"]] and not life.now.preparing
    assert "first_start" not in life.now.config


def test_a_held_start(alive: Callable[..., Life]) -> None:
    life = alive(held=True, healthcheck=None)
    life.replace()
    assert life.now.held and life.spawned == []
    assert [(name, call) for name, _, call in life.now.loop.timers] == [(MAIN, "start")]


def test_live_settings_are_kept(alive: Callable[..., Life]) -> None:
    life = alive()
    life.now.configure({"restart": {"policy": "no", "retries": 0}, "healthcheck": None})
    life.replace()
    assert life.now.health is None and life.now.config["restart"]["policy"] == "no"
    assert "healthcheck" not in life.now.config


def test_commands_and_their_clients(alive: Callable[..., Life]) -> None:
    life = alive(healthcheck=None)
    running(life)
    request = {"op": "exec", "argv": ["/x"], "env": {}, "cwd": "", "user": None, "tty": False}
    with wire.connect(str(life.place / "socket"), timeout=10) as client:
        life.turn()
        life.replace()
        wire.send(client, request, [life.files["null"]] * 3)
        life.turn()
        life.replace()
        life.executed(NO_PROCESS + 1)
        assert wire.receive(client)[0] == {"pid": NO_PROCESS + 1}
        life.replace()
        life.ended(NO_PROCESS + 1, 5 << 8)
        assert wire.receive(client)[0] == {"exit": 5}
    life.turn()
    assert not life.now.exec.busy


def refuse(*_arguments: Any, **_options: Any) -> Any:
    raise memory.TakeOver


def taken_over(life: Life, monkeypatch: pytest.MonkeyPatch, spawn: Callable[..., Any]) -> None:
    """Another supervisor goes on after one that could not fork."""
    with monkeypatch.context() as patched:
        patched.setattr(child, "spawn", spawn)
        with pytest.raises(memory.TakeOver):
            life.now.run(None)
    monkeypatch.setattr(child, "spawn", life.spawn)
    life.succeed()


def test_a_request_without_a_process_is_served_by_pid_one(
    alive: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was served in the same turn is not undone."""
    life = alive(healthcheck=None)
    running(life)

    def spawn_one(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(child, "spawn", refuse)
        return life.spawn(*arguments, **options)

    request = {"op": "exec", "argv": ["/x"], "env": {}, "cwd": "", "user": None, "tty": False}
    clients = [wire.connect(str(life.place / "socket"), timeout=10) for _ in range(3)]
    for _ in clients:
        life.turn()
    for client in clients[:2]:
        wire.send(client, request, [life.files["null"]] * 3)
    taken_over(life, monkeypatch, spawn_one)
    life.now.save()
    assert life.spawned == [["/w"], ["/x"], ["/x"]]
    assert "unserved" not in life.memory.load(memory.STATE)
    for number, client in enumerate(clients[:2], 1):
        life.executed(NO_PROCESS + number)
        assert wire.receive(client)[0] == {"pid": NO_PROCESS + number}
    wire.send(clients[2], {"op": "none"})
    life.turn()
    assert "error" in (wire.receive(clients[2])[0] or {})
    for client in clients:
        client.close()
    life.turn()


@pytest.mark.parametrize("checked", [False, True])
def test_a_start_without_a_process_is_made_by_pid_one(
    alive: Callable[..., Life], monkeypatch: pytest.MonkeyPatch, *, checked: bool
) -> None:
    """So is a check."""
    life = alive() if checked else alive(healthcheck=None)
    if checked:
        running(life)
        life.now.loop.at(CHECK, 0.0, life.now.health.check)  # type: ignore[union-attr]
    before = len(life.spawned)
    taken_over(life, monkeypatch, refuse)
    life.turn()
    assert life.spawned[before:] == [["/check" if checked else "/w"]]


def test_a_client_whose_request_is_lost_is_told(
    alive: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor was killed with the request; one that nobody has received is served."""
    life = alive(healthcheck=None)
    running(life)
    request = {"op": "exec", "argv": ["/x"], "env": {}, "cwd": "", "user": None, "tty": False}
    clients = [wire.connect(str(life.place / "socket"), timeout=10) for _ in range(2)]
    for _ in clients:
        life.turn()
    for client in clients:
        wire.send(client, request, [life.files["null"]] * 3)
    # The next supervisor begins with what has been saved.
    fds = wire.receive_request(list(life.now.exec._connections.values())[0])[1]
    life.succeed()
    kept: set[int] = set()
    monkeypatch.setattr(libc, "close_all_but", kept.update)
    resume.recover(life.now)
    # What is closed after the next save is not closed before, too.
    assert memory.retired and kept >= set(memory.retired)
    life.turn()
    assert wire.receive(clients[0])[0] is None
    life.executed(NO_PROCESS + 1)
    assert wire.receive(clients[1])[0] == {"pid": NO_PROCESS + 1}
    wire.close_all(fds)
    for client in clients:
        client.close()
    life.turn()


def test_an_interrupted_save_leaves_the_last_state() -> None:
    shared = Memory(calls.Buffer().shared)
    shared.open()
    large = {"env": "x" * 5000}
    for value in ({"a": 1}, {"a": 2}, large, {"a": 3}, large):
        before = shared.load(memory.STATE)
        word = shared.words[memory.STATE]
        shared.save(memory.STATE, value)
        after = shared.words[memory.STATE]
        # As if the writer had died before it switched.
        shared.words[memory.STATE] = word
        assert shared.load(memory.STATE) == before
        shared.words[memory.STATE] = after
        assert shared.load(memory.STATE) == value
    shared.close()


def test_a_save_without_room_leaves_the_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Memory(calls.Buffer().shared)
    shared.open()
    shared.save(memory.STATE, {"a": 1})
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:-1], at))
    with pytest.raises(OSError, match="no room"):
        shared.save(memory.STATE, {"a": 2})
    assert shared.load(memory.STATE) == {"a": 1}
    shared.close()


def test_children_that_stop_without_end_keep_it_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks at all else in between, and sends itself the signal for those that are left."""
    shared = Memory(calls.Buffer().shared)
    init = reaper.Reaper(shared)
    shared.ints[memory.INSIDE], shared.ints[memory.QUEUE] = 1, -1
    sent: list[tuple[int, int]] = []
    stopped: list[int] = []

    def call(number: int, *arguments: int) -> int:
        if number == reaper._KILL:
            sent.append(arguments[:2])
        if number != reaper._WAIT4:
            return -1
        shared.ints[memory.REAPED] = signal.SIGSTOP << 8 | 0x7F
        stopped.append(5)
        assert len(stopped) < 10000
        return stopped[-1]

    monkeypatch.setattr(reaper, "call", call)
    monkeypatch.setattr(pid_one, "let_go", lambda _pid, _status: None)
    init.on_signals()
    assert stopped and sent == [(1, signal.SIGCHLD)]
