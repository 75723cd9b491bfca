# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""All commands that init starts run with all of its settings, also those it has yet to learn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sandlot import wire
from sandlot.init import child, supervisor
from sandlot.init.memory import STATE, Memory
from sandlot.init.supervisor import Supervisor
from sandlot.kernel import calls

ENV = {"A": "a", "HOME": "/h", "USER": "u"}
COMMAND = {"argv": ["/w"], "env": ENV, "cwd": "/", "user": None, "rlimits": {7: (1, 1)}}
RULES = {"restart": {"policy": "no", "retries": 0}, "stop": {"signal": 15, "timeout": 1.0}}
CONFIG = {
    **COMMAND,
    **RULES,
    "log_max_size": 1 << 20,
    "restarts": 0,
    "logs": (),
    "nap": True,
    "login": ["HOME", "USER"],
}
PACE = {"interval": 0.1, "timeout": 9.0, "retries": 3, "start_period": 0.0, "action": "none"}
CHECK = {**PACE, "argv": ["/check"]}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The commands that were to be started."""
    commands: list[Mapping[str, Any]] = []

    def spawn(
        _clone: Any, command: Mapping[str, Any], stdio: Sequence[int], *, tty: bool = False
    ) -> Any:
        commands.append(command)
        raise OSError(11, "no process is left")

    monkeypatch.setattr(child, "spawn", spawn)
    return commands


@pytest.fixture
def init(tmp_path: Path) -> Iterator[Supervisor]:
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("status", "health")]
    peer, other = wire.pair()
    listener = wire.listen(str(tmp_path / "socket"))
    numbers = dict(zip(("status", "health"), files))
    numbers.update(null=-1, pts=-1, listener=listener.fileno())
    memory = Memory(calls.Buffer().shared)
    memory.open()
    init = Supervisor(memory, {**CONFIG}, {**numbers, "named": (), "sinks": ()})
    init.peer = peer
    yield init
    init.exec.rest()
    memory.close()
    wire.close_all(files)
    for sock in (peer, other, listener):
        sock.close()


def test_a_held_start_goes_on_without_a_trace(
    init: Supervisor, started: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HOLD_SECONDS", 0.0)
    init._hold()
    assert init.peer is None and started == []
    # Another supervisor may have to go on from here.
    assert init.memory.load(STATE)["timers"] == init.loop.timers
    init.loop.turn()
    assert started == [CONFIG]


def asked(init: Supervisor, place: Path, request: dict[str, Any]) -> wire.Message | None:
    with wire.connect(str(place / "socket"), timeout=10) as client:
        init.loop.turn()
        wire.send(client, request)
        init.loop.turn()
        answer, _ = wire.receive(client)
    return answer


def test_a_healthcheck_has_the_settings_of_the_workload(
    init: Supervisor, started: list[Mapping[str, Any]]
) -> None:
    init.status.values["state"] = "running"
    init.configure({"healthcheck": CHECK})
    init.loop.turn()
    assert started == [{**CONFIG, "healthcheck": CHECK, "argv": ["/check"]}]


def test_a_command_of_exec_has_the_settings_of_the_workload(
    init: Supervisor, started: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    """Another user's login variables replace those of the workload, but not the request's own."""
    own = {"argv": ["/x"], "cwd": "/tmp", "user": "33"}
    answer = asked(init, tmp_path, {"op": "exec", **own, "env": {"USER": "b"}, "tty": False})
    assert started == [{**CONFIG, **own, "env": {"A": "a", "USER": "b"}, "login": ["HOME"]}]
    asked(init, tmp_path, {"op": "exec", **own, "user": None, "env": {}, "tty": False})
    assert started[1] == {**CONFIG, **own, "user": None}
    assert answer and "no process is left" in answer["error"]


@pytest.mark.parametrize("nap", [False, 7, None])
def test_a_live_setting_is_for_commands_to_come(
    init: Supervisor, started: list[Mapping[str, Any]], tmp_path: Path, nap: Any
) -> None:
    """None is the default, which launch.json leaves out."""
    answer = asked(init, tmp_path, {"op": "configure", "config": {**RULES, "nap": nap}})
    assert answer is not None and "error" not in answer
    command = {"argv": ["/x"], "cwd": "", "user": None, "env": {}, "tty": False}
    asked(init, tmp_path, {"op": "exec", **command})
    assert [command.get("nap", "default") for command in started] == [
        "default" if nap is None else nap
    ]
