# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Modules as Ansible runs them: the tasks of a test are one play, as each start takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sandlot.site import Site

TOP = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
Runs = Callable[[Sequence[str], dict[str, str]], str]


def run_here(command: Sequence[str], environment: dict[str, str]) -> str:
    """The output of a play, which comes to its end."""
    whole = {**os.environ, **environment}
    done = subprocess.run(command, env=whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def play(
    paths: Site, *tasks: dict[str, Any], fails: bool = False, run: Runs = run_here
) -> list[dict[str, Any]]:
    """Results of the tasks, in their order; ``fails`` when one of them is to fail."""
    results, path = Path(paths.root, "results.json"), Path(paths.root, "play.json")
    whole = {
        "hosts": "localhost",
        "gather_facts": False,
        "environment": {"SANDLOT_ROOT": paths.root},
        "tasks": [{**task, "ignore_errors": fails} for task in tasks],
    }
    path.write_text(json.dumps([whole]))
    command = [str(BIN / "ansible-playbook"), "-i", str(TOP / "inventory/local"), str(path)]
    environment = {
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "kept_results",
        "KEPT_RESULTS": str(results),
    }
    output = run(command, environment)
    assert results.exists(), output
    found: list[dict[str, Any]] = json.loads(results.read_text())
    for leftover in (path, results):
        leftover.unlink()
    assert len(found) == len(tasks), output
    assert any(result.get("failed") for result in found) == fails, output
    return found
