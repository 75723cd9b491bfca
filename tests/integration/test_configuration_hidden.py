# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One play as a user runs it, with all reports on: no value is in what it prints or leaves."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from converge_fixtures import IDLE, Deployment, deployed, needs_root
from plays import BIN, TOP

pytestmark = [needs_root, pytest.mark.slow]

Json = dict[str, Any]
# Where each value comes from; no text of the play has one, but by its source.
SOURCES = ("inline", "tagged", "varsfile", "src", "template", "envvar", "envfile", "changed", "bad")
VALUES = {name: f"zq{number}x{name[::-1]}k" for number, name in enumerate(SOURCES)}
CONTROL = "controlled-label"
TEXT = ("first line of a file", "second line of a file")


@pytest.fixture
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


class _Vaulted(str):
    """A value as the inventory of a user has it."""


yaml.SafeDumper.add_representer(
    _Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", text, style="|")
)


def sandbox(**changed: Any) -> Json:
    return {
        "name": "web",
        "image": "busybox",
        "command": IDLE,
        "labels": {"control": CONTROL},
        "env": {"TOKEN": {"value": "{{ values.envvar }}", "secret": True}, "PLAIN": "seen-env"},
        "env_file": "web.env",
        "files": [{"target": "/etc/app.conf", "content": "{{ text }}\n"}],
        "secrets": [
            {"name": "inline", "value": "{{ values.inline }}"},
            {"name": "tagged", "value": "{{ tagged }}"},
            {"name": "varsfile", "value": "{{ varsfile }}"},
            {"name": "src", "src": "key.bin"},
            {"name": "template", "template_src": "conf.j2"},
        ],
        **changed,
    }


def tasks(prefix: str) -> list[Json]:
    converge = {"sandboxes": {"sandboxes": [sandbox()]}, "diff": True}
    changed = {"values": {**VALUES, "inline": VALUES["changed"]}, "text": TEXT[1]}
    bad = {"name": "x", "value": "{{ values.bad }}"}
    wrong = [
        {"secrets": [{**bad, "target": "/proc/x"}]},
        {"secrets": [{"name": "x", "vaule": "{{ values.bad }}"}]},
        {"command": ["/nonexistent"], "restart_policy": "no", "secrets": [bad]},
    ]
    networks = [{"name": "default", "ipv4_subnet": f"{prefix}.0.0/22"}]
    role = {"sandbox_instances": [sandbox()], "sandbox_networks": networks}
    backwards = [
        "sh",
        "-c",
        "for f in /run/secrets/*; do rev $f; done; echo $TOKEN $FROMFILE | rev",
    ]
    command = "{{ root }}/usr/local/bin/sandlot"
    return [
        {**converge, "check_mode": True},
        {**converge, "register": "done"},
        {"ansible.builtin.debug": {"var": "done"}},
        {"ansible.builtin.command": {"argv": [command, "exec", "web", "--", *backwards]}},
        {**converge, "vars": changed, "async": 60, "poll": 1},
        {"sandbox": sandbox(), "vars": changed, "diff": False},
        *(
            {"sandbox": {**sandbox(), "name": "bad", **each}, "ignore_errors": True}
            for each in wrong
        ),
        {"sandbox_info": {}},
        *(
            {"ansible.builtin.command": {"argv": [command, *words, "web"]}}
            for words in (["inspect", "--show-env"], ["explain", "--show-env"])
        ),
        {"include_role": {"name": "sandbox"}, "vars": role},
        {"include_role": {"name": "sandbox", "tasks_from": "report"}},
    ]


def write(top: Path, prefix: str) -> None:
    """The files of a user: a play, files and templates, some of them encrypted."""
    vault, secret = VaultLib([]), VaultSecret(b"open sesame")

    def encrypted(text: str) -> str:
        return str(vault.encrypt(text, secret, "prod").decode())

    contents = {
        "files/key.bin": encrypted(VALUES["src"]),
        "templates/conf.j2": "{{ values.template }}",
        "files/web.env": f"# comment\nexport FROMFILE='{VALUES['envfile']}'\n",
        "vars.yml": encrypted(yaml.safe_dump({"varsfile": VALUES["varsfile"], "values": VALUES})),
        "password": "open sesame",
    }
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "environment": {"SANDLOT_ROOT": str(top)},
        "vars_files": ["vars.yml"],
        "vars": {
            "root": str(top),
            "tagged": _Vaulted(encrypted(VALUES["tagged"])),
            "text": TEXT[0],
        },
        "tasks": tasks(prefix),
    }
    contents["play.yml"] = yaml.safe_dump([play], sort_keys=False)
    for name, text in contents.items():
        path = top / "play" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(top: Path) -> str:
    """What the play prints; what it leaves is below ``top``."""
    left = top / "left"
    for name in ("junit", "tree", "async", "local", "remote"):
        (left / name).mkdir(parents=True)
    command = ["ansible-playbook", "-vvvv", "-i", str(TOP / "inventory/local"), "play.yml"]
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:], "--vault-id", "prod@password"],
        cwd=top / "play",
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_LOG_PATH": str(left / "log"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "kept_results,ansible.builtin.junit,ansible.builtin.tree",
            "KEPT_RESULTS": str(left / "results.json"),
            "JUNIT_OUTPUT_DIR": str(left / "junit"),
            "ANSIBLE_CALLBACK_TREE_DIR": str(left / "tree"),
            "ANSIBLE_ASYNC_DIR": str(left / "async"),
            "ANSIBLE_LOCAL_TEMP": str(left / "local"),
            "ANSIBLE_REMOTE_TEMP": str(left / "remote"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shows(text: str) -> set[str]:
    """The values that a text has, as they are or encoded."""
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in VALUES.items()}
    return {name for name in VALUES if VALUES[name] in text or encoded[name].rstrip("=") in text}


def test_no_report_of_a_play_has_a_value(host: Deployment) -> None:
    top = Path(host.paths.root)
    write(top, host.prefix)
    printed = run(top)
    left = {
        str(path.relative_to(top)): path.read_text(errors="replace")
        for path in (top / "left").rglob("*")
        if path.is_file()
    }
    reports = {"printed": printed, **left}
    assert {name for name, text in reports.items() if shows(text)} == set()
    # The controls: all of the reports are there and tell what they may, and the sandbox has them.
    full = {"printed", "left/log", "left/results.json"}
    assert {name for name in full if CONTROL not in reports[name]} == set()
    assert any("junit" in name for name in left) and any("tree" in name for name in left)
    results = json.loads(left["left/results.json"])
    check, done, _, inside, _, again, *rest = results
    backwards = " ".join(inside["stdout"].split())[::-1]
    assert shows(backwards) == {
        "inline",
        "tagged",
        "varsfile",
        "src",
        "template",
        "envvar",
        "envfile",
    }
    # Before the first run, a host has no key for digests.
    assert check["diff"][1:] == done["diff"][1:] and not again["changed"]
    compare(done, printed)
    wrong, (info, inspected, explained) = rest[:3], rest[3:6]
    assert [result["failed"] for result in wrong] == [True] * 3
    assert info["sandboxes"][0]["spec"]["env"]["PLAIN"].startswith("hidden (")
    assert "PLAIN: seen-env" in inspected["stdout"] and "TOKEN: hidden (" in inspected["stdout"]
    assert "PLAIN=seen-env" in explained["stdout"]
    assert rest[-1]["msg"][0].startswith("localhost runs web")


def compare(done: Json, printed: str) -> None:
    """A file is shown as text, by its name, where a diff is asked for, and nowhere else."""
    title = "web:/etc/app.conf"
    (entry,) = (each for each in done["diff"] if each["after_header"] == title)
    assert (entry["before"], entry["after"]) == ("", f"{TEXT[0]}\n")
    assert f"-{TEXT[0]}\n+{TEXT[1]}" in printed and f"+++ after: {title}" in printed
    shown = done["invocation"]["module_args"]["sandboxes"][0]
    assert shown["files"][0]["target"] == "/etc/app.conf"
    assert TEXT[0] not in json.dumps({**done, "diff": None})
