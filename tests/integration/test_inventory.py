# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The inventory plugin, asked by Ansible's commands: two hosts with sandboxes and a dead one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, deployed, needs_root, sandbox, short_directory
from image_fixtures import BUSYBOX, prepare

pytestmark = needs_root

TOP = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("SANDLOT_TEST_ANSIBLE", Path(sys.executable).parent))
# The machine's own programs, with Python.
THIS = {"name": "this", "source": "host_overlay"}
IDLE = ["/usr/bin/sleep", "1000000"]
SOURCE = "plugin: sandbox\ninventory: hosts.yml\n"
CACHE = "cache: true\ncache_plugin: jsonfile\ncache_connection: cache\n"
MANY = 200


class Fleet:
    """Two hosts, and a directory with inventories."""

    def __init__(self, top: Path, alpha: Deployment, beta: Deployment) -> None:
        self.top, self.alpha, self.beta = top, alpha, beta
        hosts: dict[str, Any] = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": "/nonexistent/python",
                "sandbox_environment": {"SANDLOT_ROOT": host.paths.root},
            }
            for name, host in (("alpha", alpha), ("beta", beta))
        }
        # Port 1 of this machine has no server.
        hosts["dead"] = {"ansible_host": "127.0.0.1", "ansible_port": 1}
        self.write("hosts.yml", json.dumps({"sandbox_hosts": {"hosts": hosts}}))
        self.write("sandboxes.yml", SOURCE)

    def write(self, name: str, text: str) -> None:
        (self.top / name).write_text(text)

    def ansible(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command), *words],
            cwd=self.top,
            env={**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def listed(self, *words: str) -> Any:
        done = self.ansible("ansible-inventory", "--list", *words)
        assert done.returncode == 0, done.stderr
        # ansible-core before 2.19 breaks lines.
        shown = " ".join(done.stderr.split())
        start = "[WARNING]: sandboxes of dead are left out: host dead can't be reached: "
        assert shown.startswith(start) and shown.endswith("Connection refused"), shown
        assert shown.count("WARNING") == 1
        return json.loads(done.stdout, object_hook=_plain)


def _plain(entry: dict[str, Any]) -> Any:
    """A text that is never a template comes as a mapping."""
    return entry["__ansible_unsafe"] if [*entry] == ["__ansible_unsafe"] else entry


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    mark = tmp_path_factory.mktemp("marks") / "mark"
    evil = {"x": f"\x1b[2J{{{{ lookup('pipe', 'touch {mark}') }}}}", "mark": str(mark)}
    web = sandbox("web", image="this", command=IDLE, labels={"role": "web"})

    def run(host: Deployment) -> None:
        prepare(host, BUSYBOX, THIS)
        result = host.run(web, sandbox("box", state="stopped", labels=evil))
        assert not result.failed, result.failed

    with deployed() as alpha, short_directory() as directory:
        run(alpha)
        # Each compares what it leaves with what it has found.
        with deployed() as beta:
            run(beta)
            yield Fleet(Path(directory), alpha, beta)


def test_sandboxes_are_hosts(fleet: Fleet) -> None:
    alone = fleet.listed("-i", "sandboxes.yml")
    sandboxes = ["box@alpha", "web@alpha", "box@beta", "web@beta"]
    assert alone["sandboxes"]["hosts"] == sandboxes
    assert alone["label_role_web"]["hosts"] == ["web@alpha", "web@beta"]
    assert alone["host_beta"]["hosts"] == sandboxes[2:]
    assert alone["state_running"]["hosts"] == alone["image_this"]["hosts"]
    assert alone["sandbox_hosts"]["hosts"] == ["alpha", "beta", "dead"]
    variables = alone["_meta"]["hostvars"]
    assert variables["web@beta"]["ansible_sandbox_host"] == "beta"
    assert variables["web@beta"]["sandbox_addresses"] == fleet.beta.info("web")["addresses"]
    assert "ansible_python_interpreter" not in variables["web@beta"]
    fleet.write("own_sandboxes.yml", "plugin: sandbox\n")
    both = fleet.listed("-i", "hosts.yml", "-i", "own_sandboxes.yml")
    assert both == alone


def test_text_of_labels_is_neither_evaluated_nor_sent_to_the_terminal(fleet: Fleet) -> None:
    play = {
        "hosts": "box@alpha",
        "gather_facts": False,
        "tasks": [
            {"debug": {"var": "sandbox_labels"}},
            {"debug": {"msg": "{{ sandbox_labels.x }} {{ hostvars['box@beta'].sandbox_labels }}"}},
        ],
    }
    fleet.write("play.yml", json.dumps([play]))
    mark = Path(fleet.alpha.info("box")["labels"]["mark"])
    shown = fleet.ansible("ansible-playbook", "-i", "sandboxes.yml", "play.yml")
    graph = fleet.ansible("ansible-inventory", "-i", "sandboxes.yml", "--graph", "--vars")
    for done in (shown, graph):
        assert done.returncode == 0, done.stdout + done.stderr
        assert "x1b[2J{{ lookup(" in done.stdout and "\x1b" not in done.stdout + done.stderr
    assert not mark.exists()
    # Text of a user's own file is sent as it is, and evaluated.
    fleet.write("control.yml", json.dumps({"all": {"hosts": {"a": {"x": "\x1b[2J"}}}}))
    control = fleet.ansible("ansible-inventory", "-i", "control.yml", "--graph", "--vars")
    assert "\x1b[2J" in control.stdout
    fleet.write("own.yml", json.dumps({"x": f"{{{{ lookup('pipe', 'touch {mark}') }}}}"}))
    words = ["-i", "sandboxes.yml", "box@alpha", "-e", "@own.yml", "-m", "debug", "-a", "var=x"]
    assert fleet.ansible("ansible", *words).returncode == 0
    assert mark.exists()
    mark.unlink()


def test_tasks_reach_sandboxes(fleet: Fleet) -> None:
    done = fleet.ansible("ansible", "-i", "sandboxes.yml", "label_role_web", "-m", "ping")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("web@alpha", "web@beta"):
        assert f"{name} | SUCCESS" in done.stdout
    done = fleet.ansible(
        "ansible", "-i", "sandboxes.yml", "web@beta", "-m", "raw", "-a", "hostname"
    )
    assert done.stdout.splitlines()[1:] == ["web", ""], done.stdout + done.stderr


def test_a_cached_sandbox_that_has_gone_is_missing(fleet: Fleet) -> None:
    fleet.write("cached_sandboxes.yml", SOURCE + CACHE)
    made = fleet.beta.run(sandbox("short", image="this", command=IDLE))
    assert not made.failed, made.failed
    words = ["-i", "cached_sandboxes.yml"]
    assert "short@beta" in fleet.listed(*words)["sandboxes"]["hosts"]
    task = [*words, "short@beta", "-m", "raw", "-a", "cat /etc/mine || echo none"]
    # Rebuilt, it is still that sandbox, with a new layer.
    fleet.beta.run(sandbox("short", image="busybox", command=["sleep", "1000000"]))
    done = fleet.ansible("ansible", *task)
    assert done.returncode == 0 and "none" in done.stdout, done.stdout + done.stderr
    fleet.beta.run(sandbox("short", state="absent"))
    done = fleet.ansible("ansible", *task)
    assert done.returncode != 0 and "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    assert "no sandbox is named" in done.stdout
    assert "short@beta" in fleet.listed(*words)["sandboxes"]["hosts"]
    assert "short@beta" not in fleet.listed(*words, "--flush-cache")["sandboxes"]["hosts"]
    assert "short@beta" not in fleet.listed(*words)["sandboxes"]["hosts"]


def test_many_sandboxes_take_little_time(fleet: Fleet) -> None:
    """Copies of a record and of its runtime files are as much to read as those of sandboxes."""
    source = fleet.alpha.paths.sandbox("web")
    record = json.loads(Path(source.record).read_text())
    began = time.monotonic()
    fleet.listed("-i", "sandboxes.yml")
    few = time.monotonic() - began
    copies = [fleet.alpha.paths.sandbox(f"copy{number:04}") for number in range(MANY)]
    try:
        for copy in copies:
            spec = {
                **record["spec"],
                "name": copy.name,
                "labels": {"role": "copy", "of": copy.name},
            }
            os.makedirs(copy.state)
            Path(copy.record).write_text(json.dumps({**record, "name": copy.name, "spec": spec}))
            shutil.copytree(Path(source.init).parent, Path(copy.init).parent, ignore=_special)
        began = time.monotonic()
        listed = fleet.listed("-i", "sandboxes.yml")
        many = time.monotonic() - began
    finally:
        for copy in copies:
            shutil.rmtree(copy.state, ignore_errors=True)
            shutil.rmtree(Path(copy.init).parent, ignore_errors=True)
    assert len(listed["label_role_copy"]["hosts"]) == MANY
    assert many < few + 10, f"{many:.1f} s for {MANY} more sandboxes, {few:.1f} s without"


def _special(directory: str, names: list[str]) -> list[str]:
    """Names that are no plain files: sockets and pins."""
    return [name for name in names if not Path(directory, name).is_file() or name == "ns"]
