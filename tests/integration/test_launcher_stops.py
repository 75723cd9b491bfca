# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Many sandboxes stopped at once, and clients of a launcher that is busy."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any, Sequence

import pytest
from sandboxes import Host, Sandbox, children, status_or_empty
from sandlot import wire
from sandlot.launcher import client
from sandlot.launcher.client import Launcher
from sandlot.sandbox import runtime
from sandlot.site import Site

SLEEP = ["sleep", "100000"]
ALWAYS = {"policy": "unless-stopped", "retries": 0}
STOP_SOON = {"signal": 15, "timeout": 0.2}
IDLE = "echo ready; while :; do sleep 1000 & wait; done"
STUBBORN = ["sh", "-c", f"trap 'echo asked' TERM; {IDLE}"]


def await_word(boxes: Sequence[Sandbox], word: str) -> None:
    """Wait until each of them has written it."""
    for box in boxes:
        box.until(functools.partial(_has_said, box, word))


def _has_said(box: Sandbox, word: str) -> bool:
    return word in box.log()


def test_all_are_asked_before_any_is_waited_for(sandbox_host: Host) -> None:
    """None of them ends by itself within this test, so nobody's end made room for another."""
    boxes = [
        sandbox_host.sandbox(f"n{i}", STUBBORN, stop={"signal": 15, "timeout": 600.0})
        for i in range(30)
    ]
    names = [box.name for box in boxes]
    assert not sandbox_host.launcher.create(names)
    assert not sandbox_host.launcher.start(names)
    await_word(boxes, "ready")
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(sandbox_host.launcher.stop(names)))
    thread.start()
    try:
        await_word(boxes, "asked")
        assert all(box.running() for box in boxes)
    finally:
        for box in boxes:
            os.kill(box.init, signal.SIGKILL)
        thread.join()
    assert results == [{}]
    assert all(box.status()["final"] and not box.running() for box in boxes)


def test_one_that_hangs_holds_up_nobody(sandbox_host: Host) -> None:
    """Frozen and without room in its socket's backlog: it is killed, the other is asked."""
    boxes = [sandbox_host.started(name, STUBBORN, stop=STOP_SOON) for name in ("a", "b")]
    await_word(boxes, "ready")
    # A supervisor that is awake would still accept and answer.
    os.kill(boxes[0].asleep().init, signal.SIGSTOP)
    connections = fill_backlog(boxes[0].paths.socket)
    assert not sandbox_host.launcher.stop(["a", "b"])
    for connection in connections:
        connection.close()
    assert [box.log().count("asked") for box in boxes] == [0, 1]
    assert all(box.status()["final"] and not box.running() for box in boxes)


def fill_backlog(path: str) -> list[socket.socket]:
    connections = []
    for _ in range(10_000):
        try:
            connections.append(wire.connect(path, timeout=0))
        except BlockingIOError:
            return connections
    raise AssertionError(f"{path} takes connections without end")


def test_a_cgroup_that_can_not_be_thawed_is_no_obstacle(sandbox_host: Host, tmp_path: Path) -> None:
    box = sandbox_host.started("a", SLEEP)
    (tmp_path / "freezer.state").mkdir()
    box.config["cgroups"] = [str(tmp_path)]
    box.write()
    assert not sandbox_host.launcher.stop(["a"])
    assert not box.running()


def test_a_stop_goes_on_with_the_next_launcher(fresh_host: Host) -> None:
    """Launcher and worker are killed while all wait; what they had not done is done then."""
    boxes = [
        fresh_host.started(name, STUBBORN, restart=ALWAYS, stop={"signal": 15, "timeout": 2.0})
        for name in ("a", "b")
    ]
    await_word(boxes, "ready")
    launcher = fresh_host.launcher_pid()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(fresh_host.launcher.stop(["a", "b"])))
    thread.start()
    await_word(boxes, "asked")
    (worker,) = (p for p in children(launcher) if status_or_empty(p).get("Name") == "sandlot")
    for pid in (launcher, worker):
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert results == [{}]
    assert all(box.status()["final"] and not box.running() for box in boxes)


def test_a_long_stop_is_waited_for(sandbox_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher answers before a stop_timeout is over."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    box = sandbox_host.started("a", STUBBORN, stop={"signal": 15, "timeout": 1.0})
    await_word([box], "ready")
    box.stop()
    assert box.status()["final"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 1}', b'{"schema": 1, "stop": 5}'])
def test_a_damaged_launch_file_keeps_nothing(sandbox_host: Host, content: bytes) -> None:
    box = sandbox_host.started("a", [*STUBBORN[:2], f"trap 'echo asked; exit' TERM; {IDLE}"])
    await_word([box], "ready")
    Path(box.paths.launch).write_bytes(content)
    box.stop()
    assert box.log().count("asked") == 1 and not box.running()
    box.destroy()
    assert runtime.pinned(sandbox_host.paths.sandbox("a")) == set()


@pytest.mark.parametrize("operation", ["stop", "create", "start"])
@pytest.mark.parametrize("answer", [None, {"error": "can't do that"}])
def test_a_launcher_of_an_older_version_is_asked_one_by_one(
    tmp_path: Path, answer: dict[str, Any] | None, operation: str
) -> None:
    """It closes the connection of whoever asks for what it does not know, or says so."""
    paths = Site(str(tmp_path))
    os.makedirs(paths.run)
    listener = wire.listen(paths.launcher_socket)
    listener.setblocking(True)
    asked: list[str] = []
    together = f"{operation}_all"

    def serve() -> None:
        while "quit" not in asked:
            connection = wire.accept(listener)
            assert connection is not None
            message, _ = wire.receive_request(connection)
            asked.append(message["op"] if message else "")
            known = {"ping": {"pid": 1}, together: answer}.get(asked[-1], {})
            if known is not None and message:
                wire.answer(connection, known)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    launcher = Launcher(paths)
    assert getattr(launcher, operation)(["a", "b"]) == {}
    launcher.quit()
    thread.join()
    listener.close()
    asked = [word for word in asked if word not in ("", "ping")]
    assert asked == [together, together, operation, operation, "quit"]


# -- a launcher that is busy


def test_a_full_backlog_listens(tmp_path: Path) -> None:
    """Its clients wait for their turn; who only wants to know whether there is one does not."""
    paths = Site(str(tmp_path))
    os.makedirs(paths.run)
    listener = wire.listen(paths.launcher_socket)
    listener.setblocking(True)
    connections = fill_backlog(paths.launcher_socket)
    assert Launcher(paths).listening()
    with pytest.raises(BlockingIOError):
        wire.connect(paths.launcher_socket, timeout=0.1)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(Launcher(paths).ping()))
    thread.start()
    for connection in connections:
        connection.close()
    while thread.is_alive() and not answers:
        waiting = wire.accept(listener)
        assert waiting is not None
        with contextlib.suppress(OSError):  # those that have hung up
            if wire.receive_request(waiting)[0]:
                wire.answer(waiting, {"pid": 1})
                break
    thread.join()
    assert answers == [{"pid": 1}]
    listener.close()
