# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Words of an untrusted init, counts over cgroups, back-off and crash loops, parts of health."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sandlot import wire
from sandlot.errors import LaunchError
from sandlot.init import status
from sandlot.init.policy import CRASH_LOOP, SETTLED, Policy
from sandlot.sandbox import health, last_words, live, oom, runtime
from sandlot.sandbox.process import for_init
from sandlot.site import SandboxPaths, Site
from sandlot.spec import Healthcheck
from sandlot.spec.table.supervision import parse_healthcheck

STOP = {"signal": 15, "timeout": 1.0}


@pytest.fixture
def box(tmp_path: Path) -> SandboxPaths:
    found = Site(str(tmp_path)).sandbox("a")
    os.makedirs(found.run)
    os.makedirs(found.state)
    return found


def write_status(box: SandboxPaths, **values: Any) -> dict[str, Any]:
    Path(box.status).write_text(json.dumps({"state": "running", **values}))
    return runtime.status(box.site.sandbox("a"))


@pytest.mark.parametrize(
    "values",
    [
        {"health": "fine"},
        {"health": "none"},
        {"health": None, "failing_streak": 3},
        {"health": ["healthy"]},
        {"health": {"a": "b"}},
        {"health": "healthy" * 100},
        {"signal": 0},
        {"signal": 65},
        {"signal": -9},
        {"signal": "9"},
        {"signal": True},
        {"signal": 9.5},
        {"health": "healthy", "final": True},
    ],
)
def test_nonsense_of_init_is_left_out(box: SandboxPaths, values: dict[str, Any]) -> None:
    found = write_status(box, **values)
    assert not {"health", "failing_streak", "signal"} & set(found)


@pytest.mark.parametrize("streak", [-1, "3", None, True, 1 << 62, [], 1e300])
def test_nonsense_about_failures_is_none(box: SandboxPaths, streak: Any) -> None:
    found = write_status(box, health="unhealthy", failing_streak=streak)
    assert (found["health"], found["failing_streak"]) == ("unhealthy", 0)


def test_what_init_writes_is_read(box: SandboxPaths) -> None:
    written: dict[str, Any] = {"state": "crash-loop", "pid": 2, "since": 1.5, "restarts": 7}
    written |= {"exit_code": 137, "signal": 9, "lost_log_bytes": 0}
    written |= {"health": "unhealthy", "failing_streak": (1 << 62) - 1}
    content = status.encoded({**written, "lost_log_bytes": 0})
    assert len(content) == status.SIZE
    Path(box.status).write_bytes(content)
    assert runtime.status(box.site.sandbox("a")) == written
    Path(box.status).write_bytes(status.encoded({"state": "running"}))
    assert "health" not in runtime.status(box.site.sandbox("a"))


def test_log_lines_are_few_bounded_and_harmless(box: SandboxPaths) -> None:
    lines = [
        b"T stdout F one",
        b"no line",
        b"T stderr F \x1b[2Jtwo\xff",
        b"T stdout P " + b"x" * 999,
    ]
    Path(box.logs[0]).write_bytes(b"\n".join(lines) + b"\nT stdout F cut")
    os.utime(box.logs[0], ns=(1, 1))
    # Blank lines at the end hide no error.
    Path(box.logs[1]).write_bytes(b"T stdout F last\n" + b"T stdout F \nT stdout F \t\n" * 9)
    found = last_words.last_log(box)
    assert found == ["one", "\\x1b[2Jtwo\ufffd", "x" * last_words.LONGEST, "cut", "last"]
    assert last_words.last_log(box, 1) == ["last"]
    # What a hostile init makes of its files costs no more than their ends.
    os.truncate(box.logs[1], 1 << 40)
    os.truncate(box.logs[0], 0)
    assert last_words.last_log(box) == []


def test_output_of_a_check(box: SandboxPaths) -> None:
    assert last_words.last_output(box) == ""
    Path(box.health).write_bytes(b"\x07one\r\ntwo\n".ljust(4096, b"\0"))
    assert last_words.last_output(box) == "\\x07one\ntwo"
    os.truncate(box.health, 1 << 40)
    assert last_words.last_output(box) == ""


def test_files_that_are_links_are_not_followed(box: SandboxPaths) -> None:
    os.symlink("/etc/passwd", box.health)
    with pytest.raises(OSError, match="symbolic"):
        last_words.last_output(box)


def counted(box: SandboxPaths, directory: Path, kills: int, name: str = "memory.events") -> int:
    (directory / name).write_text(f"low 0\noom 5\noom_kill {kills}\noom_group_kill 0\n")
    oom.note(box, ["/no/such/hierarchy", str(directory)])
    return oom.total(box, kills)


@pytest.mark.parametrize("name", ["memory.events", "memory.oom_control"])
def test_kills_are_counted_over_cgroups(box: SandboxPaths, tmp_path: Path, name: str) -> None:
    assert counted(box, tmp_path, 0, name) == 0
    assert not os.path.exists(box.oom)
    assert counted(box, tmp_path, 3, name) == 3
    assert oom.total(box, 4) == 4
    # A new cgroup counts from zero again.
    assert oom.total(box, 0) == 3
    assert counted(box, tmp_path, 1, name) == 4
    assert counted(box, tmp_path, 2, name) == 5
    assert oom.total(box, None) == 5


def test_a_damaged_count_is_begun_anew(box: SandboxPaths, tmp_path: Path) -> None:
    for content in ("{", "[]", '{"schema": 1, "before": "x", "last": null}'):
        Path(box.oom).write_text(content)
        assert oom.total(box, 2) == 2
        assert counted(box, tmp_path, 2) == 2


def policy(name: str, retries: int = 0) -> Policy:
    return Policy({"policy": name, "retries": retries}, STOP)


def test_short_runs_in_a_row_are_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    subject = policy("always")
    delays = []
    for run in range(12):
        subject.started()
        assert subject.looping is (run >= CRASH_LOOP)
        now[0] += SETTLED - 0.1
        delays.append(subject.restart_delay(0))
    assert delays[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == 60.0
    subject.started()
    now[0] += SETTLED
    assert subject.restart_delay(1) == 0.1
    assert not subject.looping


@pytest.mark.parametrize("name", ["no", "on-failure", "always"])
def test_unhealthy_is_restarted_whatever_the_policy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    subject = policy(name)
    for run, proven in enumerate([False] * CRASH_LOOP):
        subject.started()
        now[0] += 10 * SETTLED
        subject.condemn(proven=proven)
        assert subject.restart_delay(0) == pytest.approx(0.1 * 2**run)
    assert subject.looping
    subject.started()
    now[0] += SETTLED
    subject.condemn(proven=True)
    assert subject.restart_delay(0) == 0.1
    # It holds for one end only.
    assert (subject.restart_delay(0) is None) is (name != "always")


def test_unhealthy_counts_against_retries_and_gives_way_to_a_stop() -> None:
    subject = policy("on-failure", retries=1)
    subject.condemn(proven=False)
    assert subject.restart_delay(0) == 0.1
    subject.condemn(proven=False)
    assert subject.restart_delay(0) is None
    stopped = policy("always")
    stopped.condemn(proven=False)
    stopped.stopping = True
    assert stopped.restart_delay(0) is None


def parsed(**option: Any) -> Healthcheck:
    found: Healthcheck = parse_healthcheck("healthcheck", option)
    return found


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"test": "a | b"}, {"argv": ["/bin/sh", "-c", "a | b"]}),
        ({"test": ["CMD", "a", "b"]}, {"argv": ["a", "b"]}),
        ({"tcp": 80}, {"address": "127.0.0.1", "port": 80}),
        ({"tcp": "localhost:80"}, {"address": "127.0.0.1", "port": 80}),
        ({"tcp": "[FD77:0::5]:80"}, {"address": "fd77::5", "port": 80}),
        (
            {"http": "http://[::1]:8080"},
            {
                "address": "::1",
                "port": 8080,
                "request": "GET / HTTP/1.0\r\nHost: [::1]:8080\r\nUser-Agent: sandlot\r\n"
                "Connection: close\r\n\r\n",
            },
        ),
    ],
)
def test_nothing_is_left_for_init_to_parse(
    option: dict[str, Any], expected: dict[str, Any]
) -> None:
    rules = {"interval": 30.0, "timeout": 30.0, "retries": 3, "start_period": 0.0}
    assert for_init(parsed(**option)) == {**rules, "action": "none", **expected}


def test_patience() -> None:
    assert health.patience(None) == 10.0
    assert health.patience(for_init(parsed(tcp=80))) == 185.0
    assert health.patience(for_init(parsed(tcp=80, interval="100ms", timeout="1s"))) == 10.0
    assert health.patience(for_init(parsed(tcp=80, start_period="24h"))) == 3600.0


def agree(listener: socket.socket) -> None:
    with listener.accept()[0] as connection:
        wire.receive_request(connection)
        wire.answer(connection, {})


@pytest.mark.parametrize("knows", [True, False])
def test_an_older_init_is_told_from_one_that_checks(box: SandboxPaths, knows: bool) -> None:
    """The upgrade of a host leaves its inits as they are."""
    write_status(box, **({"health": "starting"} if knows else {}))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        # By a short name, as a socket's address holds 107 bytes.
        directory = os.open(box.run, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/init.sock")
        listener.listen(1)
        answering = threading.Thread(target=agree, args=(listener,))
        answering.start()
        check = {"healthcheck": for_init(parsed(tcp=80))}
        with pytest.raises(LaunchError, match="version without") if not knows else nullcontext():
            live.configure(box, {"restart": {}, "stop": STOP, "log_max_size": 1, **check})
        answering.join()
        os.close(directory)
