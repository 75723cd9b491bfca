# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the tests deploy, and how they look at a guest."""

from __future__ import annotations

import copy
import re
import time
from typing import Any, Callable

from guest import Guest

DEPLOY = "deploy-sandbox.yml"
TEARDOWN = "playbooks/teardown_sandbox.yml"
HOME = "/home/deploy"
FINGERPRINT = f"{HOME}/fingerprint.py"
BEFORE = f"{HOME}/before.json"
CGROUP = "/sys/fs/cgroup/sandlot"
PATIENCE = 120.0

_SERVE = "mkdir -p /srv; echo hello > /srv/index.html; exec httpd -f -p 80 -h /srv"
DEMO: dict[str, Any] = {
    "sandbox_images": [{"name": "busybox", "source": "busybox"}],
    "sandbox_networks": [{"name": "default"}],
    "sandbox_defaults": {
        "image": "busybox",
        "restart_policy": "unless-stopped",
        "memory": "64m",
        "cpus": 0.5,
        "pids_limit": 32,
    },
    "sandbox_instances": [
        {"name": "web", "command": ["sh", "-c", _SERVE], "published_ports": ["8080:80"]},
        {"name": "worker", "command": ["sh", "-c", "while :; do date; sleep 60; done"]},
        {"name": "shell", "command": ["tail", "-f", "/dev/null"]},
    ],
    "sandbox_purge": True,
}
NAMES = [entry["name"] for entry in DEMO["sandbox_instances"]]


def demo(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The demo set with options of single sandboxes changed."""
    variables = copy.deepcopy(DEMO)
    for entry in variables["sandbox_instances"]:
        entry.update(changes.get(entry["name"], {}))
    return variables


def changed(output: str) -> int:
    """The number of changed tasks in a play's recap."""
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def inspect(guest: Guest, name: str) -> dict[str, Any]:
    found = guest.json(f"sandlot inspect --format json {name}")
    entry: dict[str, Any] = found[0] if isinstance(found, list) else found
    return entry


def identity(guest: Guest) -> dict[str, Any]:
    """What has to stay of each sandbox over reboots and crashes."""
    kept = ("ids", "addresses", "interfaces", "published_ports", "wanted", "spec")
    return {name: {key: inspect(guest, name)[key] for key in kept} for name in NAMES}


def inside(guest: Guest, name: str, command: str) -> str:
    return guest.root(f"sandlot exec {name} -- sh -c '{command}'")


def fetch(guest: Guest) -> str:
    """What the demo's web server answers on its published port."""
    return guest.output("busybox wget -q -O - http://127.0.0.1:8080/")


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience:.0f} seconds"
        time.sleep(0.5)
