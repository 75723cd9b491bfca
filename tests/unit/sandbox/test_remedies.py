# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A crash names its likely remedy, where the spec agrees with the last words."""

from __future__ import annotations

from typing import Any

import pytest
from sandlot.idmap import IdRange
from sandlot.sandbox import remedies, runtime
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.spec import normalise

KILLED = {"exit_code": 137, "signal": 9}
CHOWN = "chown: /data: Operation not permitted"
CASES: list[tuple[dict[str, Any], dict[str, int], int, str, str]] = [
    ({"memory": "32m"}, KILLED, 3, "", "more memory"),
    ({"memory": "32m"}, KILLED, 0, "", ""),
    ({"memory": "32m"}, {"exit_code": 1}, 3, "", ""),
    ({"command": ["/lib/systemd/systemd"]}, {}, 0, "", "systemd has to be PID 1"),
    ({"command": ["/init"]}, {}, 0, "s6-overlay-suexec: fatal: can only run as pid 1", "PID 1"),
    ({"command": ["dockerd"]}, {}, 0, "mount: permission denied", "makes mounts"),
    ({}, {}, 0, CHOWN, "capabilities: [CHOWN]"),
    ({"capabilities": ["CHOWN"]}, {}, 0, CHOWN, ""),
    ({}, {}, 0, "error: failed switching to 'redis': Operation not permitted", "SETUID, SETGID"),
    ({}, {}, 0, "nginx: setgid(101) failed (1: Operation not permitted)", "[SETGID]"),
    ({"read_only": True}, {}, 0, "mkdir: /run/x: Read-only file system", "root is read-only"),
    ({}, {}, 0, "sysctl: Read-only file system", "files of the kernel"),
    ({"user": "redis"}, {}, 0, "su: unknown user redis", "add the user"),
    ({"user": "33"}, {}, 0, "open /data/x: Permission denied", "has to be 33's"),
    ({}, {}, 0, "open /data/x: Permission denied", "DAC_OVERRIDE"),
    ({"pids_limit": 20}, {}, 0, "sh: can't fork: Resource temporarily unavailable", "is 20"),
    ({}, {}, 0, "accept: Too many open files", "nofile"),
    ({}, {}, 0, "write: No space left on device", "tmpfs"),
    ({}, {}, 0, "bind: Address already in use", "same port"),
    ({"network_mode": "container:db"}, {}, 0, "bind() failed (98: Address in use)", "of db"),
    ({}, {"exit_code": 127}, 0, "sh: foo: not found", "not in its root"),
    ({}, {}, 0, "python: can't open file '/app/x.py'", "not in its root"),
    ({}, {"exit_code": 1}, 0, "something else", ""),
]


def record_of(options: dict[str, Any]) -> Record:
    spec = normalise({"name": "a", "image": "busybox", "command": ["server"], **options})
    return Record("a", PRESENT, "started", spec, IdRange(200000), ImageRef("busybox", "sha-1"))


@pytest.mark.parametrize("options, status, kills, line, expected", CASES)
def test_remedy(
    options: dict[str, Any], status: dict[str, int], kills: int, line: str, expected: str
) -> None:
    guess = remedies.remedy(record_of(options), status, kills, [line] if line else [])
    assert expected in guess and bool(guess) == bool(expected)


@pytest.mark.parametrize(
    "status, age, expected",
    [
        ({"state": "running", "restarts": 12}, 3, "restarting"),
        ({"state": "running", "restarts": 12}, 70, "running"),
        ({"state": "running", "restarts": 1}, 3, "running"),
        ({"state": "backoff", "restarts": 12}, 3, "backoff"),
    ],
)
def test_a_workload_that_ends_again_and_again_is_restarting(
    status: dict[str, Any], age: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "uptime", lambda running, status: age)
    init = runtime.Running(1, 1, "digest", 0.0)
    assert runtime.state(PRESENT, "started", init, status) == expected


def test_a_sandbox_that_the_host_stopped_is_stopped() -> None:
    ended = {"state": "stopped", "exit_code": 0, "final": True}
    assert runtime.state(PRESENT, "started", None, ended) == "stopped"
    assert runtime.state(PRESENT, "started", None, {**ended, "state": "exited"}) == "exited"
