# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Audits of hosts in order, and of each thing that somebody changed behind sandlot's back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from sandboxes import until, workload_of
from sandlot import cgroups, volumes
from sandlot.audit import audit
from sandlot.kernel import processes
from sandlot.sandbox import runtime
from test_cli_ends import sandlot

pytestmark = needs_root


def deploy(host: Deployment) -> None:
    host.run(
        sandbox("plain", memory="64m", tmpfs=["/data"], volumes=["data:/srv"]),
        sandbox("read_only", read_only=True, capabilities=["NET_RAW"]),
        sandbox("shared", network_mode="host", allow_host_network=True),
        sandbox("devices", devices=["/dev/fuse"]),
        sandbox("mounter", capabilities=["SYS_ADMIN"], no_new_privileges=False),
        sandbox("joined", network_mode="container:plain", networks=[]),
        sandbox("done", command=["true"], restart_policy="no"),
        sandbox("off", state="stopped"),
        volumes=volumes.normalise([{"name": "data", "size": "16m"}]),
    )  # fmt: skip


def findings(host: Deployment) -> list[tuple[str, str]]:
    return [(each["sandbox"], each["aspect"]) for each in audit(host.paths)["findings"]]


def test_a_host_in_order(host: Deployment) -> None:
    deploy(host)
    until(lambda: runtime.running(host.paths.sandbox("done")) is None)
    seen = audit(host.paths)
    assert seen["findings"] == []
    assert (
        seen["shown"]["off"] == {"state": "created"} and seen["shown"]["done"]["state"] == "exited"
    )
    shown = seen["shown"]["plain"]
    assert set(shown) == {
        "state",
        "version",
        "namespaces",
        "ids",
        "confinement",
        "mounts",
        "limits",
    }
    assert "memory 67108864" in shown["limits"] and "no capability" in shown["confinement"]
    assert "NET_RAW" in seen["shown"]["read_only"]["confinement"]
    done = sandlot(host, "audit")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def enter(host: Deployment, name: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["nsenter", "--target", str(host.pid(name)), *words])


def run_in(host: Deployment, name: str, *words: str) -> None:
    assert enter(host, name, *words).wait() == 0


def memory(host: Deployment) -> None:
    hierarchy = cgroups.detect().having("memory")
    assert hierarchy is not None
    directory = Path(hierarchy.sandbox(host.paths, "plain"))
    name = "memory.max" if hierarchy.unified else "memory.soft_limit_in_bytes"
    (directory / name).write_text(str(32 << 20))


CHANGES: dict[str, tuple[Callable[[Deployment], None], tuple[str, str]]] = {
    "a mount is gone": (
        lambda host: run_in(host, "plain", "-m", "umount", "/data"), ("plain", "mounts"),
    ),
    "a mount is writable": (
        lambda host: run_in(host, "read_only", "-m", "-p", "mount", "-o", "remount,bind,rw", "/"),
        ("read_only", "mounts"),
    ),
    "a mask is gone": (
        lambda host: run_in(host, "plain", "-m", "umount", "/proc/keys"), ("plain", "mounts"),
    ),
    "a mount more": (
        lambda host: run_in(host, "plain", "-m", "mount", "-t", "tmpfs", "none", "/home"),
        ("plain", "mounts"),
    ),
    "a limit": (memory, ("plain", "limits")),
    "an address": (
        lambda host: run_in(
            host, "plain", "-n", "ip", "address", "add", "192.0.2.1/32", "dev", "eth0"
        ),
        ("plain", "repair"),
    ),
    "a process moved": (
        lambda host: Path(
            cgroups.detect().hierarchies[0].directory, "cgroup.procs"
        ).write_text(str(workload_of(host.pid("plain")))),
        ("plain", "confinement"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changed(host: Deployment, change: str) -> None:
    act, expected = CHANGES[change]
    host.converged(
        sandbox("plain", memory="64m", tmpfs=["/data"]), sandbox("read_only", read_only=True)
    )
    assert findings(host) == []
    act(host)
    assert expected in set(findings(host))
    assert {name for name, aspect in findings(host)} == {expected[0]}
    done = sandlot(host, "audit", expected[0], "--format", "json")
    assert done.returncode == 1 and json.loads(done.stdout)["findings"]
    assert sandlot(host, "audit").returncode == 1


def test_a_process_from_outside(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    intruder = enter(host, "a", "--pid", "--mount", "sleep", "1000")
    try:
        until(lambda: processes.children(intruder.pid))
        (child,) = processes.children(intruder.pid)
        (found,) = audit(host.paths)["findings"]
        assert found["sandbox"] == "a" and f"process {child} (" in found["actual"]
        os.kill(child, 9)
    finally:
        intruder.kill()
        intruder.wait()
    until(lambda: findings(host) == [])


def test_sandboxes_that_do_not_run(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b", restart_policy="no"), sandbox("c"))
    os.kill(workload_of(host.pid("b")), 9)
    Path(host.paths.sandbox("c").record).write_text("{")
    until(lambda: runtime.running(host.paths.sandbox("b")) is None)
    found: list[Any] = audit(host.paths)["findings"]
    assert {(each["sandbox"], each["aspect"]) for each in found} >= {
        ("b", "state"),
        ("c", "record"),
    }
    assert not [each for each in found if each["sandbox"] == "a"]
