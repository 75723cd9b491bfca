# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Workloads that end by themselves: runs warn or fail, and the list tells."""

from __future__ import annotations

from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot import converge
from sandlot.cli import listing
from sandlot.sandbox import crash

pytestmark = needs_root
EATER = ["sh", "-c", "x=x; while :; do x=$x$x; done"]


def shown(host: Deployment, name: str) -> str:
    """The state as `sandlot list` shows it."""
    return {each["name"]: listing._state(each) for each in listing.all_sandboxes(host.paths)}[name]


def test_a_workload_that_ends_again_and_again_is_a_warning_of_each_run(host: Deployment) -> None:
    loops = sandbox("a", command=["sh", "-c", "touch /x; chown 7 /x || exit 3"])
    good, job = sandbox("b"), sandbox("c", command=["true"], restart_policy="no")
    result = host.run(loops, good, job, watch=crash.GLANCE)
    assert not result.failed and len(result.warnings) == 1
    text = result.warnings[0]
    assert text.startswith("a: its workload ended with exit code 3")
    assert "its log ends with: chown: /x: Operation not permitted" in text
    assert text.endswith("it may need capabilities: [CHOWN]")
    end = result.sandboxes["a"]["crash"]
    assert end["exit_code"] == 3 and end["remedy"] and end["last_log"]
    assert "crash" not in result.sandboxes["b"]
    # The second run starts nothing, and waits for nothing.
    assert [line[:2] for line in host.run(loops, good, watch=crash.GLANCE).warnings] == ["a:"]
    assert host.info("a")["crash"]["remedy"] == end["remedy"]
    assert host.info("b")["crash"] is None
    fixed = {
        **loops,
        "capabilities": ["CHOWN"],
        "command": ["sh", "-c", "touch /x; chown 7 /x; sleep 999"],
    }
    assert host.run(fixed, good, watch=crash.GLANCE).warnings == []


@pytest.mark.parametrize("code", [4, 0])
def test_fail_on_crash(host: Deployment, code: int) -> None:
    """The end comes after a default watch; an end with success is none."""
    job = sandbox("a", command=["sh", "-c", f"sleep 0.8; exit {code}"], restart_policy="no")
    assert host.run({**job, "restart": True}, watch=0.1).warnings == []
    failed = host.run({**job, "restart": True, "fail_on_crash": 30}).failed
    assert ("ended with exit code 4" in failed.get("a", "")) == (code == 4)
    assert host.run(sandbox("b", fail_on_crash=0.1)).failed == {}


def test_a_workload_that_is_killed_for_memory(host: Deployment) -> None:
    spec = sandbox("a", command=EATER, memory="16m", memory_swap="16m")
    result = host.run({**spec, "fail_on_crash": 60})
    assert "was killed for its memory limit" in result.failed["a"]
    assert result.failed["a"].endswith("give it more memory, or make it use less")
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
    result = host.run(spec, watch=crash.GLANCE)
    assert "systemd has to be PID 1, which is the sandbox's own init" in result.warnings[0]
