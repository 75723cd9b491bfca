# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs plays as a user would, and says how long they took."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

import clock

PROJECT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.prefix) / "bin" / "ansible-playbook"
MODULE_LINE = "Using module file"


class PlayError(clock.Failed):
    """A play did what it should not have."""


@dataclass(frozen=True)
class Play(clock.Done):
    """One finished run of ansible-playbook."""

    @property
    def modules(self) -> int:
        """Module executions; needs a run with ``verbose``."""
        return self.output.count(MODULE_LINE)

    @property
    def changed(self) -> int:
        return sum(host["changed"] for host in self._stats().values())

    def _stats(self) -> dict[str, dict[str, int]]:
        recap = self.output.rpartition("PLAY RECAP")[2]
        rows = [line.partition(":") for line in recap.splitlines() if "changed=" in line]
        return {host.strip(): _counters(text) for host, _, text in rows}


def _counters(text: str) -> dict[str, int]:
    return {key: int(value) for key, _, value in (part.partition("=") for part in text.split())}


@dataclass(frozen=True)
class Runner:
    """Where plays run: an inventory, extra environment, and a command put in front."""

    inventory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()

    def run(self, playbook: Path, *, verbose: bool = False, **extra: Any) -> Play:
        command = [*self.prefix, str(COMMAND), "-i", str(self.inventory), str(playbook)]
        if extra:
            command += ["-e", json.dumps(extra)]
        if verbose:
            command.append("-vvv")
        environment = {"ANSIBLE_NOCOLOR": "1", **self.environment}
        done = clock.run(command, environment=environment, cwd=str(PROJECT))
        return Play(done.seconds, done.cpu, done.output)


def write_inventory(path: Path, group: str, variables: Mapping[str, Any]) -> Path:
    """This machine as the only host of ``group``; JSON is YAML."""
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    path.write_text(json.dumps({group: {"hosts": {"localhost": host}, "vars": dict(variables)}}))
    return path


def write_pings(path: Path, number: int) -> Path:
    """A play that executes ``number`` modules which do nothing."""
    tasks = [{"name": f"Ping {index}", "ansible.builtin.ping": {}} for index in range(number)]
    play = {"name": "Ping", "hosts": "all", "gather_facts": False, "tasks": tasks}
    path.write_text(json.dumps([play]))
    return path
