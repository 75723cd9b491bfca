# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Real plays with --check --diff -vvv: a check foretells the run, and neither shows a secret."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import plays
import pytest
from check_fixtures import Json, Look
from converge_fixtures import Deployment, needs_root, sandbox
from sandlot.spec.options import SECRET

pytestmark = [needs_root, pytest.mark.slow]
# Each value that is to be hidden has this in it; what is encoded has another one.
HIDDEN = "hunter2"
ENCODED = base64.b64encode(f"{HIDDEN} in base64".encode()).decode()


@pytest.fixture
def controller(tmp_path: Path) -> Path:
    """Files that the controller reads."""
    (tmp_path / "variables.env").write_text(f"FROM_FILE={HIDDEN} of a file\n")
    (tmp_path / "key.pem").write_text(f"{HIDDEN} of another file\n")
    return tmp_path


def secrets(controller: Path, turn: str) -> Json:
    """Options with values to hide, in every notation; the content of ``files`` is for the diff."""
    return {
        "env": {"PLAIN": f"{HIDDEN} {turn}", "KEPT": {"value": f"{HIDDEN} kept {turn}"}},
        "env_file": [f"{controller}/variables.env"],
        "secrets": [
            {"name": "text", "value": f"{HIDDEN} text {turn}"},
            {"name": "binary", "value": ENCODED, "encoding": "base64"},
            {"name": "file", "src": f"{controller}/key.pem"},
        ],
        "files": [{"target": "/etc/app.conf", "content": f"content {turn}\n"}],
        "labels": {"turn": f"label {turn}"},
    }


def deploy(controller: Path, turn: str) -> Json:
    setup = {"command": ["touch", "/a"], "env": {"TOKEN": f"{HIDDEN} of a setup {turn}"}}
    return {
        "sandboxes": {
            "images": [{"name": "made", "source": "busybox", "setup": [setup]}],
            "defaults": secrets(controller, turn),
            "sandboxes": [sandbox("a"), sandbox("b", state="stopped")],
        }
    }


def others(host: Deployment, controller: Path) -> list[Json]:
    """Tasks that don't need each other: a check makes nothing that the next one would find."""
    network = {"name": "back", "ipv4_subnet": f"{host.prefix}.4.0/24"}
    return [
        {"sandbox": {**sandbox("c"), **secrets(controller, "two")}},
        {"sandbox_network": {"networks": [network]}},
        {"sandbox_volume": {"name": "data", "labels": {"a": "b"}}},
    ]


class Play:
    """Plays of one host, and all that they print."""

    def __init__(self, host: Deployment) -> None:
        self._host, self.output = host, ""

    def __call__(self, *listed: Json, flags: Sequence[str], fails: bool = False) -> list[Json]:
        def run(command: Sequence[str], environment: dict[str, str]) -> str:
            printed = plays.run_here([*command, *flags, "-vvv"], environment)
            self.output += printed
            return printed

        return plays.play(self._host.paths, *listed, run=run, fails=fails)


def test_check_diff_and_run(host: Deployment, controller: Path) -> None:
    """On a host that hides values for the first time, and on one that did before."""
    play, found = Play(host), []
    for turn in ("one", "two"):
        listed = [deploy(controller, turn), *(others(host, controller) if turn == "two" else ())]
        before = Look(host)
        checked = play(*listed, flags=["--check", "--diff"])
        assert before.touched() == []
        done = play(*listed, flags=["--diff"])
        for each, real in zip(checked, done):
            for part in ("changed", "actions", "diff"):
                assert each[part] == real[part]
        assert all(each["changed"] for each in done)
        found += [*checked, *done]
    shown = play.output + json.dumps(found)
    for value in (HIDDEN, ENCODED):
        assert value not in shown, excerpt(shown, value)
    # The control: other values are shown.
    assert play.output.count("label two") > 4 and "+content two" in play.output
    assert "secrets (live)" in shown and "hidden (new)" in shown


def excerpt(text: str, value: str) -> str:
    place = text.index(value)
    return text[max(0, place - 300) : place + 100]


def test_failures_show_no_secret(host: Deployment, controller: Path) -> None:
    """Of each option that is secret by the table, refused and malformed, and a password."""
    assert set(secrets(controller, "one")) >= SECRET
    malformed = [
        {"sandbox": {**sandbox("a"), "env": f"A={HIDDEN} text"}},
        {"sandbox": {**sandbox("a"), "secrets": [f"{HIDDEN} list"]}},
        {"sandbox": {**sandbox("a"), "files": {"content": f"{HIDDEN} map"}}},
    ]
    registry = {"source": "oci", "reference": "registry.invalid/x:1", "username": "u"}
    image = {**registry, "name": "x", "password": f"{HIDDEN} of a registry"}
    refused = {**sandbox("a", image="none"), **secrets(controller, "one")}
    crash = {**sandbox("a", command=["false"]), **secrets(controller, "one")}
    command = {"name": "none", "argv": ["env"], "env": {"A": f"{HIDDEN} of a command"}}
    job = {"image": "busybox", "argv": ["false"], "env": {"A": f"{HIDDEN} of a job"}}
    listed = [
        *malformed,
        {"sandbox_rootfs": {"images": [image]}},
        {"sandbox": refused},
        {"sandbox": {**refused, "sercets": [{"value": f"{HIDDEN} misspelled"}]}},
        {"sandbox": crash},
        {"sandbox_exec": command},
        {"sandbox_run": job},
    ]
    play = Play(host)
    results = play(*listed, flags=["--diff"], fails=True)
    assert all(each["failed"] for each in results)
    shown = play.output + json.dumps(results)
    assert HIDDEN not in shown, excerpt(shown, HIDDEN)
    assert "registry.invalid" in shown and "is not an image of this host" in shown
