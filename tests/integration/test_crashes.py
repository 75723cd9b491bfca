# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Workloads that end by themselves: runs warn or fail, and the list tells."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot import converge
from sandlot.cli import listing
from sandlot.sandbox import crash

pytestmark = needs_root
# Slow enough for a look at it while it runs.
EATER = ["sh", "-c", "sleep 0.3; x=x; while :; do x=$x$x; done"]


def shown(host: Deployment, name: str) -> str:
    """The state as `sandlot list` shows it."""
    return {each["name"]: listing._state(each) for each in listing.all_sandboxes(host.paths)}[name]


def test_a_workload_that_ends_again_and_again_fails_each_run(host: Deployment) -> None:
    loops = sandbox("a", command=["sh", "-c", "touch /x; chown 7 /x || exit 3"])
    good, job = sandbox("b"), sandbox("c", command=["true"], restart_policy="no")
    result = host.run(loops, job, watch=30.0)
    assert list(result.failed) == ["a"] and not result.warnings
    text = result.failed["a"]
    assert text.startswith("its workload ended with exit code 3")
    assert "; its log ends with:\n    chown: /x: Operation not permitted\n" in text
    assert text.endswith("\n  remedy: it may need capabilities: [CHOWN]")
    end = result.sandboxes["a"]["crash"]
    assert end["exit_code"] == 3 and end["remedy"] and end["last_log"]
    assert "crash" not in result.sandboxes["c"]
    # The next runs start nothing, and wait for nothing; others converge.
    eventually(lambda: host.info("a")["restarts"] >= 2)
    again = host.run(loops, good, watch=crash.WATCH)
    assert list(again.failed) == ["a"] and again.failed["a"].count("not permitted") == 1
    assert not again.sandboxes["a"]["changed"] and host.info("b")["state"] == "running"
    assert host.info("a")["crash"]["remedy"] == end["remedy"]
    assert host.info("b")["crash"] is None
    spared = host.run({**loops, "fail_on_crash": 0}, good, watch=crash.WATCH)
    assert not spared.changed and not spared.failed and spared.warnings[0].startswith("a: its work")
    # A change of what kept ending is tried at once, and there is nothing to go back to.
    wrong = host.run({**loops, "command": ["sh", "-c", "exit 4"]}, good, watch=30.0)
    assert wrong.failed["a"].startswith("its workload ended with exit code 4")
    fixed = {
        **loops,
        "capabilities": ["CHOWN"],
        "command": ["sh", "-c", "touch /x; chown 7 /x; sleep 999"],
    }
    repaired = host.run(fixed, good, watch=crash.WATCH)
    assert not repaired.failed and not repaired.warnings


@pytest.mark.parametrize("code", [4, 0])
def test_fail_on_crash(host: Deployment, code: int) -> None:
    """The end comes after the usual watch; an end with success is none."""
    job = sandbox("a", command=["sh", "-c", f"sleep 0.8; exit {code}"], restart_policy="no")
    failed = host.run({**job, "fail_on_crash": 30}).failed
    assert ("ended with exit code 4" in failed.get("a", "")) == (code == 4)
    assert host.run(sandbox("b", fail_on_crash=0.1)).failed == {}


def test_processes_that_a_workload_leaves_hide_no_crash(host: Deployment) -> None:
    leaves = ["sh", "-c", "trap '' TERM; sleep 1000000 & exit 3"]
    result = host.run(sandbox("a", command=leaves, stop_timeout=3), watch=crash.WATCH)
    assert "ended with exit code 3, and init ends what it left behind" in result.failed["a"]


def test_all_are_watched_at_once_and_a_job_only_to_its_end(host: Deployment) -> None:
    job = sandbox("job", command=["sh", "-c", "sleep 0.2"], restart_policy="on-failure")
    begun = time.monotonic()
    assert not host.run(job, watch=60.0).failed
    assert time.monotonic() - begun < 30
    many = [sandbox(name) for name in "abcdefgh"]
    begun = time.monotonic()
    assert not host.run(*many, watch=crash.WATCH).failed
    assert time.monotonic() - begun < len(many) * crash.WATCH
    begun = time.monotonic()
    assert not host.run(*many, watch=60.0).failed
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("action", ["none", "restart"])
@pytest.mark.parametrize("test", ["exit 0", "echo bad; exit 1"])
def test_a_healthcheck_ends_the_watch(host: Deployment, test: str, action: str) -> None:
    """A workload that its healthcheck ends has crashed; one that is unhealthy runs on."""
    check = {"test": test, "interval": "100ms", "timeout": "30s", "retries": 1, "action": action}
    begun = time.monotonic()
    result = host.run(sandbox("a", healthcheck=check), watch=600.0)
    assert time.monotonic() - begun < 30
    bad = test != "exit 0"
    assert bool(result.failed) == (bad and action == "restart")
    assert bool(result.warnings) == (bad and action == "none")
    if result.warnings:
        text = "a is unhealthy after 1 failed checks; its healthcheck said: bad"
        assert text in result.warnings[0]
    if result.failed:
        assert "was ended by SIGTERM" in result.failed["a"]


@pytest.mark.parametrize("recreate", [True, False])
def test_a_change_whose_workload_ends_in_time_goes_back(host: Deployment, recreate: bool) -> None:
    """By a rebuild, and by a restart; the end comes later than a second."""
    works = sandbox("a", command=["sh", "-c", "echo old says; exec sleep 1000000"])
    fails = {**works, "command": ["sh", "-c", "sleep 1.2; echo new says; exit 7"]}
    host.converged(works)
    result = host.run(fails, recreate=recreate, watch=30.0)
    kind = "rebuild" if recreate else "restart"
    assert (
        f"{kind} failed and was rolled back: its workload ended with exit code 7"
        in (result.failed["a"])
    )
    assert "new says" in result.failed["a"] and "the old one runs again" in result.failed["a"]
    assert result.sandboxes["a"]["crash"]["last_log"] == ["new says"]
    assert host.run(works, watch=crash.WATCH).actions == []
    assert not host.run({**fails, "fail_on_crash": 0}, recreate=recreate, watch=30.0).failed
    eventually(lambda: host.info("a")["exit_code"] == 7)


def test_a_workload_that_is_killed_for_memory(host: Deployment) -> None:
    spec = sandbox("a", command=EATER, memory="16m", memory_swap="16m")
    result = host.run({**spec, "fail_on_crash": 60})
    assert "was killed for its memory limit" in result.failed["a"]
    assert result.failed["a"].endswith("is 16m: give it more memory, or make it use less")
    eventually(lambda: host.info("a")["restarts"] >= 2)
    assert "OOM kill" in shown(host, "a")
    eventually(lambda: host.info("a")["state"] == "restarting")


def test_what_the_host_stopped_is_not_exited(host: Deployment) -> None:
    ended = sandbox("b", command=["sh", "-c", "exit 3"], restart_policy="no")
    host.run(sandbox("a"), ended, sandbox("c", state="stopped"))
    eventually(lambda: host.info("b")["state"] == "exited")
    assert converge.down(host.paths) == {}
    assert [shown(host, name) for name in "abc"] == ["stopped(by the host)", "exited(3)", "created"]
    assert host.info("a")["crash"] is None
    assert not converge.up(host.paths).failed
    assert shown(host, "a") == "running"


def test_systemd_is_explained(host: Deployment) -> None:
    start = "cp /bin/sh /systemd; echo 'exit 1' > /s; exec /systemd /s"
    host.run(sandbox("a", command=["sh", "-c", start], restart_policy="no"))
    eventually(lambda: host.info("a")["state"] == "exited")
    spec: dict[str, Any] = sandbox("a", command=["/systemd", "/s"], restart_policy="no")
    result = host.run(spec, watch=30.0)
    assert "systemd has to be PID 1, which is the sandbox's own init" in result.failed["a"]


def elf32(code: bytes) -> bytes:
    """A static program for the i386, loaded at BASE."""
    start, size = BASE + 84, 84 + len(code)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIIIIIHHHHHH", ident, 2, 3, 1, start, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return head + struct.pack("<8I", 1, 0, BASE, BASE, size, size, 5, 0x1000) + code


BASE = 0x08048000
# write(1, "fine\n", 5); exit(0), by int 0x80
CODE = (
    b"\xb8\4\0\0\0\xbb\1\0\0\0\xb9" + struct.pack("<I", BASE + 84 + 34) + b"\xba\5\0\0\0\xcd\x80"
    b"\xb8\1\0\0\0\xbb\0\0\0\0\xcd\x80fine\n"
)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="its kernel runs no other programs")
def test_32_bit_programs_need_an_option(host: Deployment) -> None:
    host.run(sandbox("a"))
    program = Path(host.paths.sandbox("a").upper, "program")
    program.write_bytes(elf32(CODE))
    program.chmod(0o755)
    assert subprocess.check_output([program]) == b"fine\n"  # this kernel runs it
    spec = sandbox("a", command=["/program"], restart_policy="no")
    (text,) = host.run(spec, watch=30.0).failed.values()
    assert "ended by SIGSEGV" in text
    assert text.endswith("/program is a 32-bit program: give it seccomp_architectures: [x86]")
    result = host.run({**spec, "seccomp_architectures": ["x86"]}, watch=30.0)
    assert not result.failed and not result.warnings
    assert result.relaxed["a"] == ["seccomp_architectures: x86"]
    assert host.info("a")["exit_code"] == 0 and host.info("a")["last_log"][-1] == "fine"
