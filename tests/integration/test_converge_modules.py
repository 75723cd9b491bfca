# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The modules as Ansible runs them: packed, sent, and told what happened."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plays
import pytest
from converge_fixtures import (
    IDLE,
    Deployment,
    free_port,
    needs_root,
    short_directory,
    untouched_host,
)
from plays import BIN, TOP
from sandlot.kernel.program import SYSTEM_PATH

pytestmark = [needs_root, pytest.mark.slow]

DEPENDENCY = {"name": "a", "condition": "healthy"}
SPECS = {
    "defaults": {"image": "busybox", "command": IDLE},
    "sandboxes": [
        {"name": "a"},
        {"name": "b", "capabilities": ["NET_RAW"], "memory": "32m", "depends_on": [DEPENDENCY]},
    ],
}


@pytest.fixture
def host() -> Iterator[Deployment]:
    with short_directory() as root, untouched_host(root):
        deployment = Deployment(root)
        yield deployment
        deployment.teardown()


def play(host: Deployment, *tasks: dict[str, Any], fails: bool = False) -> list[dict[str, Any]]:
    """Results of the tasks, in their order."""
    return plays.play(host.paths, *tasks, fails=fails)


def test_from_nothing_to_nothing(host: Deployment) -> None:
    network = {"networks": [{"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}]}
    interpreter = "/dev/.python/bin/python3"
    inside = [host.paths.command, "exec", "--python", "a", "--", interpreter, "-c", "print(6 * 7)"]
    runtime, image, _, checked, done, again, info, printed, gone, _, _, absent = play(
        host,
        {"sandbox_host": {}},
        {"sandbox_rootfs": {"images": [{"name": "busybox", "source": "busybox"}]}},
        {"sandbox_network": network},
        {"sandboxes": SPECS, "check_mode": True, "diff": True},
        {"sandboxes": SPECS, "diff": True},
        {"sandboxes": SPECS},
        {"sandbox_info": {"name": "b"}},
        {"ansible.builtin.command": {"argv": inside}},
        {"sandbox": {"name": "b", "state": "absent"}},
        {"sandboxes": {"sandboxes": [], "purge": True}},
        {"sandbox_network": {"networks": [], "purge": True}},
        {"sandbox_host": {"state": "absent"}},
    )
    assert printed["stdout"] == "42"
    assert runtime["changed"] and image["changed"]
    assert runtime["kernel"] == os.uname().release and runtime["idmapped_mounts"]
    assert checked["changed"] and checked["actions"] == done["actions"]
    assert checked["diff"] == done["diff"] and set(checked["diff"]["after"]) == {"a", "b"}
    assert not again["changed"] and again["actions"] == []
    assert done["relaxed"] == {"b": ["capabilities: NET_RAW"]}
    assert done["sandboxes"]["a"]["addresses"] == [f"{host.prefix}.0.2"]
    assert [entry["state"] for entry in info["sandboxes"]] == ["running"]
    assert "b: remove" in gone["actions"] and gone["sandbox"]["state"] == "absent"
    assert absent["changed"] and not os.path.exists(host.paths.state)


def test_a_check_of_a_fresh_host(host: Deployment) -> None:
    """It plans sandboxes upon images and networks that are yet to be made, and makes none."""
    declared = [{"name": "back", "ipv4_subnet": f"{host.prefix}.4.0/24"}]
    attached = [{"name": "back", "ipv4_address": f"{host.prefix}.4.9"}]
    wanted = {
        "sandboxes": [{"name": "a"}, {"name": "b", "networks": attached}],
        "defaults": SPECS["defaults"],
        "images": [{"name": "busybox", "source": "busybox"}],
        "networks": declared,
    }
    (checked,) = play(host, {"sandboxes": wanted, "check_mode": True, "diff": True})
    assert {"a: start", "b: start"} <= set(checked["actions"])
    assert checked["sandboxes"]["b"]["addresses"] == [f"{host.prefix}.4.9"]
    kinds = {each["after_header"]: each["after"] for each in checked["diff"]}
    assert kinds["sandboxes"]["b"]["networks"] == attached and "busybox" in kinds["images"]
    assert not os.path.exists(host.paths.state)
    undeclared = {key: value for key, value in wanted.items() if key != "networks"}
    (refused,) = play(host, {"sandboxes": undeclared}, fails=True)
    assert "networks: 'back' of sandbox b is not a network of this host" in refused["msg"]


def test_the_installed_runtime_is_the_engine(host: Deployment) -> None:
    first, again = play(host, {"sandbox_host": {}}, {"sandbox_host": {}})
    assert first["changed"] and not again["changed"]
    installed, engine = Path(host.paths.lib, "sandlot"), TOP / "module_utils" / "sandlot"
    names = {str(path.relative_to(engine)) for path in engine.rglob("*.py")}
    assert {str(path.relative_to(installed)) for path in installed.rglob("*.py")} == names
    for name in names:
        assert (installed / name).read_bytes() == (engine / name).read_bytes()
    damaged = installed / "site.py"
    damaged.write_text("damaged")
    (repaired,) = play(host, {"sandbox_host": {}})
    assert repaired["changed"] and damaged.read_bytes() == (engine / "site.py").read_bytes()


def test_errors_name_the_option_and_the_remedy(host: Deployment) -> None:
    host.prepare()
    odd = {"name": "c", "image": "busybox", "command": IDLE}
    loops = {"sandbox": {"name": "b", "image": "busybox", "command": ["sh", "-c", "pwd; exit 9"]}}
    unnamed, started, unknown, refused, gone, crash, again, occupied = play(
        host,
        {"sandbox": {"name": "a", "image": "none", "command": IDLE}},
        {
            "sandboxes": {
                **SPECS,
                "sandboxes": [{"name": "a"}, {"name": "b", "command": ["/no/such"]}],
            }
        },
        {"sandbox": {**odd, "sysctls": {"net.ipv4.none": "1"}}},
        {"sandbox": {**odd, "sysctls": {"net.ipv4.ip_default_ttl": "900"}}},
        {"sandbox": {"name": "c", "state": "absent"}},
        loops,
        loops,
        {"sandbox_host": {"state": "absent"}},
        fails=True,
    )
    assert unnamed["msg"].startswith("sandbox 'a': image: 'none' is not an image of this host;")
    assert set(started["failed_items"]) == {"b"} and "/no/such" in started["msg"]
    assert "a: start" in started["actions"]
    assert "sysctls: 'net.ipv4.none' does not exist in a sandbox of this kernel;" in unknown["msg"]
    assert "can't be set to '900': Invalid argument; correct the value" in refused["msg"]
    assert not gone["failed"]
    for changed, result in ((True, crash), (False, again)):
        assert result["failed"] and result["changed"] is changed
        assert "ended with exit code 9" in result["msg"]
        assert result["crashes"]["b"]["last_log"][-1] == "/"
    assert "there are sandboxes on this host: a, b" in occupied["msg"]


PLAY = """\
- hosts: localhost
  gather_facts: false
  environment: {SANDLOT_ROOT: %s}
  tasks:
    - name: Deploy
      ansible.builtin.include_role: {name: sandbox}
  vars:
    sandbox_images: [{name: busybox, source: busybox}]
    sandbox_networks: []
    sandbox_defaults: {image: busybox, command: [sleep, "9"], networks: [], env: {A: hunter2}}
    sandbox_instances:
      - name: web
        env: {PASSWORD: hunter2, DEBUG: "1"}
        %s
"""


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("labels: {b: '1'}", ""),
        ("user: 33:33", "sandbox 'web': user: 2013 is an integer, not a string; quote it: YAML"),
        ("networks: [back]", "sandbox 'web': networks[0]: 'back' is a string, not a mapping; "),
        ("iamge: busybox", "sandbox 'web': iamge: 'iamge' is not an option of this sandlot; did "),
    ],
)
def test_an_inventory_as_an_operator_sees_it(host: Deployment, line: str, refusal: str) -> None:
    """Nothing shows a secret, whatever Ansible is asked to show."""
    path = Path(host.paths.root, "play.yml")
    path.write_text(PLAY % (host.paths.root, line))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")}
    command = [str(BIN / "ansible-playbook"), "--check", "--diff", "-vvv", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    path.unlink()
    output = done.stdout + done.stderr
    assert (done.returncode != 0) is bool(refusal) and refusal in output, output
    assert "PASSWORD: hidden" in output and "hunter" not in output, output


RECAP = re.compile(r"^localhost .*failed=0 +skipped=0 +rescued=0 +ignored=0", re.M)


def test_plays_are_quiet_and_end_with_what_runs(host: Deployment, tmp_path: Path) -> None:
    """Ansible's own settings, and an inventory that names no Python."""
    command = ["sh", "-c", "sleep 1000"]
    port = free_port()
    web = {"name": "web", "command": command, "published_ports": [f"{port}:80"]}
    variables = {
        "sandbox_environment": {"SANDLOT_ROOT": host.paths.root},
        "sandbox_images": [{"name": "busybox", "source": "busybox"}],
        "sandbox_networks": [{"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}],
        "sandbox_defaults": {"image": "busybox"},
        "sandbox_instances": [web, {"name": "shell", "command": command}],
    }
    hosts = {"localhost": {"ansible_connection": "local"}}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"sandbox_hosts": {"hosts": hosts, "vars": variables}}))
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nroles_path={TOP}/roles\nlibrary={TOP}/library\n"
        f"module_utils={TOP}/module_utils\naction_plugins={TOP}/plugins/action\n"
        # As in the project's own ansible.cfg: plain modules warn of the interpreter otherwise.
        "interpreter_python=auto_silent\n"
    )
    # On the PATH of this machine may be shims of Pythons that do not run.
    path = f"{SYSTEM_PATH}:/usr/local/bin"
    environment = {"PATH": path, "HOME": "/root", "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}

    def played(name: str, *options: str, fails: bool = False) -> str:
        words = [str(BIN / "ansible-playbook"), "-i", str(inventory), *options]
        done = subprocess.run(
            [*words, str(TOP / f"playbooks/{name}_sandbox.yml")],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, output
        assert fails or RECAP.search(output), output
        assert "[WARNING]" not in output and "[DEPRECATION" not in output, output
        return output

    runs = f"web at http://127.0.0.1:{port}/, shell;"
    assert f"localhost would run {runs} 2 to make" in played("deploy", "--check")
    first = played("deploy")
    assert f"localhost runs {runs} 2 made, image busybox made (" in first
    assert "try sudo sandlot exec -i -t shell -- sh" in first
    assert f"localhost runs {runs} nothing changed" in played("deploy")
    rebuilt = played("rebuild", "-e", "sandbox_rebuild=shell")
    assert "localhost runs shell; 1 other left alone; 1 rebuilt" in rebuilt
    refused = played("rebuild", "-e", "sandbox_rebuild=shel", fails=True)
    assert "'shel' is not a listed sandbox; correct the name" in refused
    web["command"] = ["/no/such"]
    inventory.write_text(json.dumps({"sandbox_hosts": {"hosts": hosts, "vars": variables}}))
    failed = played("deploy", fails=True)
    assert "1 of 2 sandboxes failed, the others did not\\nweb: " in failed.split('"msg": ')[-1]
    assert "/no/such is not in its root: name a program that the image has" in failed
    assert "localhost runs no sandbox; 2 removed" in played("teardown")


def test_the_port_that_ansible_comes_by_is_not_published(host: Deployment) -> None:
    """Nothing on the host listens on it, as when a router translates it."""
    for port, refused in ((28922, True), (28923, False)):
        variables = {
            "ansible_port": 28922,
            "sandbox_images": [{"name": "busybox", "source": "busybox"}],
            "sandbox_defaults": SPECS["defaults"],
            "sandbox_networks": [{"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}],
            "sandbox_instances": [{"name": "a", "published_ports": [f"{port}:80"]}],
        }
        role = {"ansible.builtin.include_role": {"name": "sandbox"}, "vars": variables}
        whole = {
            "hosts": "localhost",
            "gather_facts": False,
            "environment": {"SANDLOT_ROOT": host.paths.root},
            "tasks": [role],
        }
        path = Path(host.paths.root, "play.json")
        path.write_text(json.dumps([whole]))
        environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")}
        command = [str(BIN / "ansible-playbook"), "--check", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        path.unlink()
        assert (done.returncode != 0) is refused, done.stdout + done.stderr
        assert ("is the port this host is managed through" in done.stdout + done.stderr) is refused
