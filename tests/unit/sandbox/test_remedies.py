# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A crash names its likely remedy, where the spec agrees with the last words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sandlot.idmap import IdRange
from sandlot.sandbox import elf_class, remedies, runtime
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
    ({"capabilities": ["CHOWN"]}, {}, 0, CHOWN, "sandlot trace a"),
    ({}, {"exit_code": 159, "signal": 31}, 0, "", "sandlot trace a"),
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


def head(word: int, machine: int) -> bytes:
    return b"\x7fELF" + bytes([word]) + bytes(13) + bytes([machine, 0]) + bytes(40)


def test_a_32_bit_program_is_recognised(tmp_path: Path) -> None:
    for name in ("upper", "lower/bin"):
        (tmp_path / name).mkdir(parents=True)
    roots = [str(tmp_path / name) for name in ("upper", "lower")]
    bin_ = tmp_path / "lower/bin"
    (bin_ / "old").write_bytes(head(1, 3))
    (bin_ / "new").write_bytes(head(2, 62))
    (bin_ / "arm").write_bytes(head(1, 40))
    (bin_ / "link").symlink_to("/bin/old")
    (bin_ / "script").write_bytes(b"#!/bin/old -x\n")
    (bin_ / "empty").write_bytes(b"#!\n")
    os.mkfifo(bin_ / "pipe")
    path = {"PATH": "/sbin:/bin"}
    found = [x.name for x in bin_.iterdir() if elf_class.is_32_bit(roots, f"/bin/{x.name}", path)]
    assert sorted(found) == ["link", "old", "script"]
    assert elf_class.is_32_bit(roots, "old", path)
    for options, expected in (({}, True), ({"seccomp_profile": "unconfined"}, False)):
        known = record_of({"command": ["/bin/old"], **options})
        guess = remedies.remedy(known, {"exit_code": 139}, 0, [], roots)
        assert ("seccomp_architectures: [x86]" in guess) == expected
    (tmp_path / "upper/bin").mkdir()
    (tmp_path / "upper/bin/old").write_bytes(head(2, 62))
    assert not elf_class.is_32_bit(roots, "old", path)


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
