# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ansible runs modules on hosts without the engine of the controller, and with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from plays import BIN, TOP, play, run_here
from sandlot.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

LOOK = {"sandbox_info": {}}
INSTALL = {"sandbox_host": {}}
DEPLOY = {"sandboxes": {"host": {}, "sandboxes": []}}
BY_FILES = {"ansible_pipelining": False}


def test_an_engine_is_sent_where_the_host_lacks_it(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    shell = f"{paths.lib}/sandlot/shell.py"
    # A task, and whether it brings the engine.
    steps: list[tuple[dict[str, Any], bool]] = [
        (LOOK, True),
        ({**LOOK, "async": 60, "poll": 1}, True),
        ({**DEPLOY, "check_mode": True}, True),
        (INSTALL, True),
        (LOOK, False),
        ({**LOOK, "async": 60, "poll": 1}, False),
        ({**LOOK, "vars": BY_FILES}, False),
        ({"ansible.builtin.file": {"path": shell, "mode": "0666"}}, False),
        ({**LOOK, "vars": BY_FILES}, True),
        (DEPLOY, True),
        ({**INSTALL, "check_mode": True}, False),
        (DEPLOY, False),
        ({"sandbox_host": {"state": "absent"}}, False),
    ]
    outputs = []

    def run(command: Sequence[str], environment: dict[str, str]) -> str:
        outputs.append(run_here([*command, "-vvv"], environment))
        return outputs[-1]

    results = play(paths, *(task for task, _ in steps), run=run)
    # Ansible prints the name of a task after what it says of the execution.
    chunks = outputs[0].split("\nTASK [")[:-1]
    assert ["/engine.zip" in chunk for chunk in chunks] == [sent for _, sent in steps]
    changed = [result["changed"] for result in results]
    assert changed == [
        *[False] * 2,
        True,
        True,
        *[False] * 3,
        True,
        False,
        True,
        *[False] * 2,
        True,
    ]
    for deployed in (results[2], results[9]):
        assert deployed["actions"][0].startswith("runtime: install version")
        assert deployed["host"]["kernel"] == os.uname().release
    assert results[11]["host"] == {"actions": [], "changed": False, "missing_packages": []}
    # The carrier, sandbox_host and sandboxes; then one.
    assert [chunks[number].count("Using module file") for number in (9, 11)] == [3, 1]
    assert [result["sandboxes"] for result in results[:2]] == [[], []]
    assert not os.path.lexists(paths.lib)


def test_two_hosts_at_once_from_the_command_line(tmp_path: Path) -> None:
    command = [str(BIN / "ansible"), "-i", "a,b,", "-c", "local", "-m", "sandbox_info", "all"]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        "SANDLOT_ROOT": str(tmp_path),
        # On the PATH of this machine may be shims of Pythons that do not run.
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 2 and not os.listdir(tmp_path)
