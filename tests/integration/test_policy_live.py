# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""egress and host_access of running sandboxes: set, changed and removed without a restart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, free_port, needs_root, sandbox
from sandlot import converge, network, store
from sandlot.launcher.client import Launcher
from sandlot.network.common import declare, resolution

pytestmark = needs_root

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)"
SERVE = ["httpd", "-f", "-p", "80", "-h", "/tmp"]
NAME = "mirror.example"


@pytest.fixture
def host(host: Deployment) -> Deployment:
    """One network to reach from, one whose published ports are beyond it."""
    networks = [
        {"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"},
        {"name": "beyond", "ipv4_subnet": f"{host.prefix}.4.0/24"},
    ]
    declare.save(host.paths, network.normalise(host.paths, networks))
    return host


def reaches(host: Deployment, name: str, address: str, port: int, *, wanted: bool) -> bool:
    """Whether a connection from a sandbox is made; tried again when it should be."""
    command = ["nsenter", f"--net={host.paths.sandbox(name).pin('net')}", sys.executable, "-c"]
    command += [CONNECT, address, str(port)]
    tries = range(5 if wanted else 1)
    return any(subprocess.run(command, capture_output=True).returncode == 0 for _ in tries)


def test_egress_is_live(host: Deployment) -> None:
    port, gateway = free_port(), f"{host.prefix}.0.1"
    served = {"networks": [{"name": "beyond"}], "published_ports": [f"{port}:80"]}
    server = sandbox("server", command=SERVE, **served)
    steps: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"egress": []}, False),
        ({"egress": [f"{gateway}:{port}"]}, True),
        ({"egress": ["dns", f"{gateway}:1"]}, False),
        ({}, True),
    ]
    host.converged(server, sandbox("client"))
    pid = host.pid("client")
    for number, (options, wanted) in enumerate(steps):
        result = host.converged(server, sandbox("client", **options))
        assert result.changed == (number > 0)
        if number:
            assert any(line.startswith("client: egress") for line in result.actions)
        assert reaches(host, "client", gateway, port, wanted=wanted) == wanted, options
        assert reaches(host, "server", gateway, port, wanted=True)
    assert host.pid("client") == pid


def test_host_access_is_live(host: Deployment) -> None:
    gateway = f"{host.prefix}.0.1"
    host.converged(sandbox("client"))
    pid = host.pid("client")
    with socket.socket() as listener:
        listener.bind((gateway, 0))
        listener.listen()
        port = listener.getsockname()[1]
        steps: list[tuple[list[str] | None, bool]] = [
            (None, False),
            ([f"{port}/tcp"], True),
            ([f"{port}/udp"], False),
            ([str(port)], True),
            (None, False),
        ]
        for services, wanted in steps:
            result = host.converged(sandbox("client", host_access=services))
            assert reaches(host, "client", gateway, port, wanted=wanted) == wanted, services
            lines = [f"host_access: {item.partition('/')[0]}" for item in services or ()]
            relaxed = [line.partition("/")[0] for line in result.relaxed.get("client", [])]
            assert relaxed == lines
    assert host.pid("client") == pid


def test_stop_and_start_keep_the_policy(host: Deployment) -> None:
    gateway = f"{host.prefix}.0.1"
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        host.converged(sandbox("a", host_access=[str(port)]), sandbox("b"))
        converge.lifecycle(host.paths, ["a"], "restart")
        assert reaches(host, "a", gateway, port, wanted=True)
        assert not reaches(host, "b", gateway, port, wanted=False)


def test_refresh_follows_a_name(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    port, gateway = free_port(), f"{host.prefix}.0.1"
    answer = [f"{host.prefix}.4.1"]
    monkeypatch.setattr(
        resolution.socket,
        "getaddrinfo",
        lambda *_args, **_options: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer[0], 0))],
    )
    assert converge.refresh(host.paths) == []
    served = {"networks": [{"name": "beyond"}], "published_ports": [f"{port}:80"]}
    server = sandbox("server", command=SERVE, **served)
    host.converged(server, sandbox("client", egress=[f"{NAME}:{port}"]))
    assert not reaches(host, "client", gateway, port, wanted=False)
    answer[0] = gateway
    (line,) = converge.refresh(host.paths)
    assert f"addresses of {NAME} changed" in line
    assert reaches(host, "client", gateway, port, wanted=True)
    assert converge.refresh(host.paths) == []


def test_launcher_starts_the_refresh(host: Deployment) -> None:
    """When the last one is long ago; "localhost" needs no name server and grants nothing."""
    host.converged(sandbox("client", egress=["localhost:1"]))
    names = host.paths.names_file
    launcher = Launcher(host.paths)
    launcher.wake()
    written = os.stat(names).st_mtime
    long_ago = time.time() - 1000
    os.utime(names, (long_ago, long_ago))
    launcher.wake()
    eventually(lambda: os.stat(names).st_mtime >= written)
    data = store.read(names)
    assert data and data["names"] == {"localhost": {}}
    host.converged(sandbox("client"))
    assert not os.path.exists(names)
