# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Audits of hosts in order while sandboxes are used: no false difference."""

from __future__ import annotations

import subprocess

from converge_fixtures import Deployment, needs_root, sandbox
from exec_fixtures import COMMAND, Terminal, environment
from job_fixtures import begun
from sandlot import network, volumes
from sandlot.audit import audit
from sandlot.network.common import declare
from sandlot.reach.python_place import INTERPRETER

pytestmark = needs_root
WAITS = ["sh", "-c", "echo begun; read -r line"]


def declared(host: Deployment) -> None:
    networks = [
        {"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"},
        {"name": "six", "ipv4_subnet": f"{host.prefix}.4.0/24", "ipv6_subnet": "fd77:5::/64"},
    ]
    declare.save(host.paths, network.normalise(host.paths, networks))


def deploy(host: Deployment, **limits: object) -> None:
    part = {"source": "data", "target": "/part", "subpath": "inner"}
    host.converged(
        sandbox("full", memory="64m", read_only=True, devices=["/dev/fuse"], mounts=[part],
                volumes=["data:/data"], tmpfs=["/tmp"], egress_rate="10mbit", **limits),
        sandbox("six", networks=[{"name": "six"}, {"name": "default"}], egress=[],
                published_ports=["127.0.0.1:8129:80"], sysctls={"net.ipv4.ip_default_ttl": "50"}),
        sandbox("none", network_mode="none"),
        sandbox("loops", command=["false"]),
        sandbox("admin", capabilities=["NET_ADMIN"]),
        sandbox("hidden", secrets=[{"name": "key", "value": "x"}],
                files=[{"target": "/etc/page", "content": "x"}], ulimits=["nofile:64:128"]),
        volumes=volumes.normalise([{"name": "data"}]),
    )  # fmt: skip


def test_a_busy_host_in_order(host: Deployment) -> None:
    declared(host)
    host.run(sandbox("full", volumes=["data:/data"], command=["mkdir", "/data/inner"]))
    deploy(host)
    assert audit(host.paths)["findings"] == []
    deploy(host, cpus="0.5", pids_limit=99)
    nsenter = ["nsenter", "--target", str(host.pid("admin")), "-n", "ip", "route", "add"]
    subprocess.run([*nsenter, "192.0.2.0/24", "dev", "eth0"], check=True)
    python = subprocess.Popen(
        [*COMMAND, "exec", "-i", "--python", "none", "--", INTERPRETER, "-c",
         "print('begun', flush=True); input()"],
        env=environment(host), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert python.stdout and python.stdout.readline() == b"begun\n"
    jobs = [begun(host, *WAITS), begun(host, *WAITS, options=("--network", "default"))]
    with Terminal() as terminal:
        terminal.run(host, "exec", "-t", "-i", "full", "--", *WAITS)  # type: ignore[arg-type]
        terminal.expect(b"begun")
        seen = audit(host.paths)
        assert seen["findings"] == []
        assert "cpus 0.5" in seen["shown"]["full"]["limits"]
    for process in (python, *jobs):
        process.communicate(b"\n", timeout=20)
