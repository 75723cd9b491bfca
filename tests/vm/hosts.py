# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the tests deploy, and how they look at a guest."""

from __future__ import annotations

import copy
import os
import re
import shlex
import time
from typing import Any, Callable, Sequence

from guest import Guest

SUITES = os.environ.get("SANDLOT_VM_SUITES", "bookworm trixie").split()
# Whose first deploys are cut off: it takes long, and is the same on all.
SUITES_CUT = slice(1)
DEPLOY = "deploy-sandbox.yml"
TEARDOWN = "playbooks/teardown_sandbox.yml"
HOME = "/home/deploy"
FINGERPRINT = f"{HOME}/fingerprint.py"
BEFORE = f"{HOME}/before.json"
CGROUP = "/sys/fs/cgroup/sandlot"
PATIENCE = 300.0

# Whether the host answers where the filter should keep it from answering: often at first.
_PROBE = """
trap 'echo ended; exit' TERM
n=0
while :; do
  nc -w 1 10.77.0.1 22 < /dev/null && echo REACHED
  echo tried
  n=$((n + 1))
  [ $n -lt 20 ] && sleep 1 || sleep 5
done
"""
_WORK = """
trap 'echo ended; exit' TERM
trap 'echo reloaded; cat /etc/worker.conf' HUP
while :; do date; sleep 60 & wait; done
"""
_SERVE = "mkdir -p /srv; echo hello > /srv/index.html; exec httpd -f -p 80 -h /srv"


def configured(text: str) -> dict[str, Any]:
    """A file and a secret; ``secret-of-`` and ``file-of-`` are nowhere else."""
    target = "/etc/worker.conf"
    return {
        "files": [{"target": target, "content": f"file-of-{text}\n", "on_change": "reload"}],
        "secrets": [{"name": "password", "value": f"secret-of-{text}"}],
    }


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
    # In another order than they are to be started in, which isn't that of the alphabet either.
    "sandbox_instances": [
        {
            "name": "web",
            "command": ["sh", "-c", _SERVE],
            "published_ports": ["8080:80"],
            "depends_on": ["shell"],
        },
        {"name": "worker", "command": ["sh", "-c", _WORK], **configured("the-first-deploy")},
        {
            "name": "shell",
            "command": ["sh", "-c", _PROBE],
            "depends_on": ["worker"],
            "disk_size": "32m",
        },
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


# What it writes goes to a volume, to a volume with a size, and to a layer with a size.
DIARY: dict[str, Any] = {
    "name": "diary",
    "command": ["sleep", "1000000"],
    "volumes": ["records:/records", "limited:/limited"],
    "disk_size": "24m",
}
VOLUMES = ["records", "limited"]


def with_diary(variables: dict[str, Any]) -> dict[str, Any]:
    """And the sandbox of tests/vm/diary.py."""
    declared = [{"name": "limited", "size": "16m"}]
    instances = [*variables["sandbox_instances"], DIARY]
    return {**variables, "sandbox_volumes": declared, "sandbox_instances": instances}


GROWN = {"disk_size": "48m"}
# `worker` and `shell` after their limits were raised, for whoever comes after that.
_RAISED = {"memory": "96m", "cpus": 1, **configured("a-later-one")}
RAISED = with_diary(demo({"worker": _RAISED, "shell": GROWN}))


def changed(output: str) -> int:
    """The number of changed tasks in a play's recap."""
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def inspected(guest: Guest, names: Sequence[str] = NAMES) -> dict[str, dict[str, Any]]:
    """All that is known of sandboxes, by one command: each costs an emulated host seconds."""
    found = guest.json(f"sandlot inspect --format json {shlex.join(names)}")
    return {entry["name"]: entry for entry in found}


def each(guest: Guest, key: str) -> dict[str, Any]:
    """One key of what is known of each sandbox."""
    return {name: entry[key] for name, entry in inspected(guest).items()}


def identity(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What has to stay of each sandbox over reboots and crashes."""
    kept = ("ids", "addresses", "interfaces", "published_ports", "wanted", "spec")
    return {name: {key: entry[key] for key in kept} for name, entry in entries.items()}


def compare(guest: Guest) -> None:
    """Nothing is left of sandlot: the fingerprint is that from before the first deploy."""
    done = guest.ssh(f"sudo python3 {FINGERPRINT} --compare {BEFORE}", check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"


def inside(guest: Guest, name: str, command: str) -> str:
    return guest.root(f"sandlot exec {name} -- sh -c '{command}'")


def fetch(guest: Guest, *, check: bool = True) -> str:
    """What the demo's web server answers on its published port."""
    otherwise = "" if check else " || true"
    return guest.output(f"busybox wget -q -O - http://127.0.0.1:8080/{otherwise}")


def has_values(guest: Guest, text: str) -> None:
    """The sandbox has its values, and the host the secret one in memory and encrypted only."""
    assert inside(guest, "worker", "cat /etc/worker.conf /run/secrets/password") == (
        f"file-of-{text}\nsecret-of-{text}"
    )
    places = "/run/sandlot/.secrets /var/lib/sandlot /var/log /run/log"
    # The brackets are for sudo, which logs the command.
    shown = guest.root(
        f"cd /; stat -f -c %T run/sandlot/.secrets; grep -rl 'secret-of[-]' {places} | sort -u;"
        f" grep -rlF file-of-{text} /var/lib/sandlot/sandboxes/worker/files;"
        " ls /var/lib/sandlot/sandboxes/worker/secrets"
    ).split()
    assert shown[0] == "ramfs"
    assert all(path.startswith("/run/sandlot/.secrets/worker/") for path in shown[1:-2]), shown
    assert len(shown) > 3 and shown[-1].endswith(".cred"), shown


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience:.0f} seconds"
        time.sleep(0.5)
