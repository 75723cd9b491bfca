# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A hostile guest changes nothing but the answers of its own tasks."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connection_fixtures import SANDBOXES, TOP, Fleet, fleet_of
from converge_fixtures import needs_root

pytestmark = [needs_root, pytest.mark.slow]

EVIL = "/var/evil"
VICTIM = "debian@alpha"
WHERE = {"raw": "hostname"}
# The facts of a module that would have the next task run elsewhere.
LURE = {
    "ansible_sandbox_name": "web",
    "ansible_sandbox_host": "here",
    # In ansible_facts, these take the place of those.
    "sandbox_name": "debian",
    "sandbox_host": "alpha",
    "ansible_connection": "local",
    "hostvars": {"alpha": {"ansible_connection": "local"}},
}
INJECTED = {"ANSIBLE_INJECT_FACT_VARS": "true"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(*SANDBOXES) as made:
        yield made


def evil(fleet: Fleet, answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The victim's Python answers all modules with this; variables for the inventory."""
    script = f"#!/bin/sh\ncat >/dev/null\necho '{json.dumps(answer)}'\n"
    encoded = base64.b64encode(script.encode()).decode()
    write = {"raw": f"echo {encoded} | base64 -d > {EVIL}; chmod 755 {EVIL}"}
    fleet.play({"hosts": VICTIM, "tasks": [write]})
    return {VICTIM: {"ansible_python_interpreter": EVIL}}


def collection(place: Path, *, weak: bool) -> dict[str, str]:
    """The tree as a collection; a weak one takes facts for what they say."""
    target = place / f"{weak}/ansible_collections/sandlot/sandlot"
    shutil.copytree(TOP / "plugins", target / "plugins", dirs_exist_ok=True)
    if weak:
        module = target / "plugins/plugin_utils/facts.py"
        check = "if not C.INJECT_FACTS_AS_VARS:"
        assert check in module.read_text()
        module.write_text(module.read_text().replace(check, "if True:"))
    (target / "meta").mkdir(exist_ok=True)
    (target / "meta/runtime.yml").write_text("requires_ansible: '>=2.16.0'\n")
    # Not the checkout, whose plugins Ansible knows.
    own = {"ANSIBLE_CONNECTION_PLUGINS": "/var/empty"}
    return {**own, "ANSIBLE_COLLECTIONS_PATH": str(place / str(weak))}


def test_facts_do_not_lead_tasks_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    """In a checkout Ansible drops such facts; in a collection the plugin refuses them."""
    hosts = evil(fleet, {"ansible_facts": LURE, "changed": False})
    play = {"hosts": VICTIM, "tasks": [{"ping": {}}, WHERE]}
    assert fleet.play(play, hosts=hosts, environment=INJECTED).last.stdout == "debian"
    hosts[VICTIM]["ansible_connection"] = "sandlot.sandlot.sandbox"
    weak = {**INJECTED, **collection(tmp_path, weak=True)}
    assert fleet.play(play, hosts=hosts, environment=weak).last.stdout == "web"
    own = collection(tmp_path, weak=False)
    refused = fleet.play(play, hosts=hosts, environment={**INJECTED, **own}, fails=True).last
    assert refused.outcome == "failed"
    assert "is a fact from inside the sandbox, which could lead tasks elsewhere" in refused.message
    # Facts that are no variables lead nowhere.
    assert fleet.play(play, hosts=hosts, environment=own).last.stdout == "debian"


def test_a_fact_does_not_rename_the_sandbox(fleet: Fleet, tmp_path: Path) -> None:
    hosts = evil(fleet, {"ansible_facts": {"inventory_hostname": "web@here"}, "changed": False})
    play = {"hosts": VICTIM, "tasks": [{"ping": {}}, WHERE]}
    refused = fleet.play(play, hosts=hosts, environment=INJECTED, fails=True).last
    assert "inventory_hostname is a fact from inside the sandbox" in refused.message
    hosts[VICTIM]["ansible_connection"] = "sandlot.sandlot.sandbox"
    weak = {**INJECTED, **collection(tmp_path, weak=True)}
    assert fleet.play(play, hosts=hosts, environment=weak).last.stdout == "web"


def test_facts_of_delegated_tasks_run_nothing_on_the_host(fleet: Fleet, tmp_path: Path) -> None:
    """They become facts of the host of the play, and could name another program as its sandlot."""
    layer = f"{fleet.host.paths.sandbox('debian').upper}"
    program = "#!/bin/sh\necho root of $(hostname)\n"
    plant = {"copy": {"content": program, "dest": "/usr/local/bin/sandlot", "mode": "0755"}}
    fleet.play({"hosts": VICTIM, "tasks": [plant]})
    hosts = evil(fleet, {"ansible_facts": {"sandbox_environment": {"SANDLOT_ROOT": layer}}})
    tasks = [{**task, "delegate_to": VICTIM} for task in ({"ping": {}}, WHERE)]
    play = {"hosts": "alpha", "tasks": tasks}
    refused = fleet.play(play, hosts=hosts, environment=INJECTED, fails=True).last
    assert "sandbox_environment is a fact of host alpha" in refused.message
    hosts[VICTIM]["ansible_connection"] = "sandlot.sandlot.sandbox"
    weak = {**INJECTED, **collection(tmp_path, weak=True)}
    escaped = fleet.play(play, hosts=hosts, environment=weak).last
    assert escaped.stdout == f"root of {os.uname().nodename}"


def test_no_word_of_the_sandbox_shows_it_the_hosts_python(fleet: Fleet) -> None:
    task = {"raw": "ls /dev/.python/bin", "failed_when": False}
    assert "python3" not in fleet.play({"hosts": VICTIM, "tasks": [task]}).last.stdout
    hosts = {VICTIM: {"ansible_sandbox_python": "host"}}
    assert "python3" in fleet.play({"hosts": VICTIM, "tasks": [task]}, hosts=hosts).last.stdout


def test_crafted_results(fleet: Fleet) -> None:
    answer = {
        "add_host": {"host_name": "intruder", "groups": ["all"], "host_vars": {}},
        "add_group": "intruders",
        "changed": True,
        "_ansible_delegated_vars": {"ansible_host": "here"},
        "_ansible_no_log": True,
        "text": "{{ lookup('pipe', 'echo templated') }}",
    }
    hosts = evil(fleet, answer)
    known = {"debug": {"msg": "{{ groups['all'] | list }} {{ groups | list }} {{ said.text }}"}}
    tasks = [{"ping": {}, "register": "said"}, known, WHERE]
    played = fleet.play({"hosts": VICTIM, "tasks": tasks}, hosts=hosts)
    assert "intruder" not in played.kept[1].message and "here" in played.kept[1].message
    assert "{{ lookup(" in played.kept[1].message  # no template
    assert played.last.stdout == "debian"
    # The control: what Ansible does with these keys of its own module.
    added = {"add_host": {"name": "intruder"}}
    control = fleet.play({"hosts": VICTIM, "tasks": [added, {**known, "vars": {"said": answer}}]})
    assert "intruder" in control.last.message


def test_a_fetched_file_stays_in_its_directory(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "a/b/c/out"
    content = base64.b64encode(b"x").decode()
    answer = {
        "stat": {"exists": True, "isreg": True, "checksum": "1"},
        "content": content,
        "encoding": "base64",
        "source": "/../../../../escaped",
        "changed": False,
    }
    task = {"fetch": {"src": "/etc/hostname", "dest": str(out), "validate_checksum": False}}
    fleet.play({"hosts": VICTIM, "tasks": [task]})
    expected = [out / VICTIM / "etc/hostname"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == expected
    hosts = evil(fleet, answer)
    for more in ({}, {"become": True}):
        fleet.play({"hosts": VICTIM, "tasks": [{**task, **more}]}, hosts=hosts)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == expected


def test_floods_end_at_their_limits(fleet: Fleet, tmp_path: Path) -> None:
    flood = {"raw": "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2"}
    got = {"fetch": {"src": "/var/large", "dest": f"{tmp_path}/large", "flat": True}}
    large = {"raw": "truncate -s 40M /var/large"}
    low = {"ansible_sandbox_max_output": "1M", "ansible_sandbox_max_file": "20M"}
    for name in ("debian@alpha", "debian@here"):
        # The control: the same output and the same file pass below the limits.
        played = fleet.play({"hosts": name, "tasks": [large, flood, got]})
        assert len(played.kept[1].stdout) == 3000000
        assert (tmp_path / "large").stat().st_size == 40 << 20
        (tmp_path / "large").unlink()
        for task, message in (
            (flood, "wrote more than 1048576 bytes, and was killed; let it write less"),
            (got, "/var/large holds more than 20971520 bytes; raise ansible_sandbox_max_file"),
        ):
            ended = fleet.play({"hosts": name, "tasks": [task]}, hosts={name: low}, fails=True)
            assert ended.last.outcome == "failed" and message in ended.last.message
            assert len(ended.last.stdout) <= 1 << 20


def test_messages_control_no_terminal(fleet: Fleet) -> None:
    name = "/var/\x1b]0;title\x07\x1b[31m"
    make = {"raw": "mkdir -p \"$(printf '/var/\\033]0;title\\007\\033[31m')\""}
    fetch = {"fetch": {"src": name, "dest": "/var/tmp/", "flat": True}}
    put = {"copy": {"content": "x", "dest": name}, "vars": {"ansible_user": "\x1b[31m"}}
    fleet.play({"hosts": VICTIM, "tasks": [make]})
    for task in (fetch, put):
        failed = fleet.play({"hosts": VICTIM, "tasks": [task]}, fails=True)
        assert "\x1b" not in failed.last.message + failed.output
    # The control: what a command writes is Ansible's to show.
    shown = fleet.play({"hosts": VICTIM, "tasks": [{"raw": "printf '\\033[31m'"}]})
    assert "\x1b" in shown.last.result["stdout"]
