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

from converge_fixtures import Deployment, needs_root, sandbox
from sandboxes import until, workload_of
from sandlot import cgroups, converge, volumes
from sandlot.audit import audit
from sandlot.kernel import processes
from sandlot.launcher.client import Launcher
from sandlot.network.common.model import identity
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
        "addresses",
    }
    assert shown["addresses"] == f"eth0 {host.info('plain')['interfaces'][0]['ipv4']}"
    assert seen["shown"]["shared"]["addresses"] == "of host"
    digests = seen["digests"]["plain"]
    assert digests["recorded"] == digests["running"] and len(digests["running"]) == 64
    assert seen["digests"]["off"]["running"] is None
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


def command(*words: str) -> None:
    subprocess.run(words, check=True, timeout=20)


def inside(words: str) -> Callable[[Deployment], None]:
    return lambda host: run_in(host, "plain", "-n", "ip", *words.split())


def orphaned_link(host: Deployment) -> None:
    """A veth pair with the MAC address that sandlot derives from the name of its link."""
    link = host.paths.link("linked", "eth0")
    command("ip", "link", "add", link, "address", identity(host.paths, link), "type", "veth")


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
    "an address more": (inside("address add 192.0.2.1/32 dev eth0"), ("plain", "repair")),
    "an address less": (inside("address flush dev eth0"), ("plain", "repair")),
    "an address of lo": (inside("address add 192.0.2.1/32 dev lo"), ("plain", "addresses")),
    "a route more": (inside("route add 192.0.2.0/24 dev eth0"), ("plain", "addresses")),
    "a route elsewhere": (
        inside("route add 198.51.100.0/24 dev eth0 table 9"), ("plain", "addresses"),
    ),
    "no default route": (inside("route del default"), ("plain", "repair")),
    "a link more": (
        inside("link add more0 up type veth peer name more1"), ("plain", "addresses"),
    ),
    "a rule more": (
        lambda host: command(
            "nft", "insert", "rule", "inet", host.paths.nft_table, "to_host", "accept"
        ),
        ("", "repair"),
    ),
    "a table less": (
        lambda host: command("nft", "delete", "table", "bridge", host.paths.nft_table),
        ("", "repair"),
    ),
    "no rules at all": (lambda host: command("nft", "flush", "ruleset"), ("", "repair")),
    "a port of the bridge": (
        lambda host: command(
            "ip", "link", "set", host.info("plain")["interfaces"][0]["link"], "nomaster"
        ),
        ("plain", "repair"),
    ),
    "an orphan's layer": (
        lambda host: os.makedirs(f"{host.paths.sandboxes}/gone/layer/upper"), ("", "orphans"),
    ),
    "an orphan's namespaces": (
        lambda host: os.makedirs(f"{host.paths.run}/ghost/ns"), ("", "orphans"),
    ),
    "an orphan's cgroup": (
        lambda host: os.mkdir(cgroups.detect().hierarchies[0].sandbox(host.paths, "lost")),
        ("", "orphans"),
    ),
    "an orphan's link": (orphaned_link, ("", "orphans")),
    "a process moved": (
        lambda host: Path(
            cgroups.detect().hierarchies[0].directory, "cgroup.procs"
        ).write_text(str(workload_of(host.pid("plain")))),
        ("plain", "confinement"),
    ),
}  # fmt: skip


def test_what_somebody_changed(host: Deployment) -> None:
    host.converged(
        sandbox("plain", memory="64m", tmpfs=["/data"]), sandbox("read_only", read_only=True)
    )
    # It would repair rules and links at once.
    Launcher(host.paths).quit()
    known = audit(host.paths)["findings"]
    assert known == []
    for change, (act, expected) in CHANGES.items():
        act(host)
        new = [each for each in audit(host.paths)["findings"] if each not in known]
        assert {(each["sandbox"], each["aspect"]) for each in new} == {expected}, change
        assert all(each["action"] for each in new if each["aspect"] in ("limits", "repair"))
        converge.repair(host.paths)
        known = audit(host.paths)["findings"]
    done = sandlot(host, "audit", "plain", "--format", "json")
    assert done.returncode == 1 and json.loads(done.stdout)["findings"]
    done = sandlot(host, "audit")
    assert done.returncode == 1 and "orphans  " in done.stdout


def test_what_can_not_be_compared(host: Deployment) -> None:
    host.converged(sandbox("a"))
    Launcher(host.paths).quit()
    command("nft", "delete", "table", "inet", host.paths.nft_table)
    command("nft", "add", "table", "inet", host.paths.nft_table)
    (found,) = audit(host.paths)["findings"]
    assert found["aspect"] == "repair" and "was not made by sandlot" in found["actual"]
    command("nft", "delete", "table", "inet", host.paths.nft_table)
    Path(host.paths.sandbox("a").launch).write_text("{")
    assert ("a", "version") in findings(host)


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


def test_a_process_that_is_less_confined(host: Deployment) -> None:
    host.converged(sandbox("a"))
    assert findings(host) == []
    # Into its user namespace and cgroups, too, so that only its confinement differs.
    script = (
        'for each in "$@"; do echo $$ > $each/cgroup.procs; done; exec nsenter -a -t $PID sleep 99'
    )
    directories = json.loads(Path(host.paths.sandbox("a").launch).read_text())["cgroups"]
    intruder = subprocess.Popen(
        ["sh", "-c", script, "sh", *directories], env={**os.environ, "PID": str(host.pid("a"))}
    )
    try:
        until(lambda: processes.children(intruder.pid))
        until(lambda: findings(host) != [])
        lines = [each["actual"] for each in audit(host.paths)["findings"]]
        for words in ("CapEff of", "Seccomp of", "NoNewPrivs of"):
            assert any(line.startswith(words) for line in lines), (words, lines)
    finally:
        os.kill(processes.children(intruder.pid)[0], 9)
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
