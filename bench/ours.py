# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot under the clock, on a root of its own: a deployment on this machine is untouched."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leftovers
import plays
import processes
import pump
from sandlot import store
from sandlot.launcher.client import Launcher
from sandlot.sandbox import runtime
from sandlot.site import Site

PLAYS = plays.PROJECT / "playbooks"
SUBNET = "10.213.88.0/22"
WORKLOAD = ["sleep", "1000000"]


@dataclass(frozen=True)
class Memory:
    """Bytes per idle sandbox."""

    init: list[int]
    launcher: int
    workload: list[int]

    @property
    def per_sandbox(self) -> float:
        return (sum(self.init) + self.launcher) / len(self.init)


class Ours:
    """One moved root and the plays that run on it."""

    def __init__(self, directory: Path, subnet: str = SUBNET) -> None:
        self.root = directory / "host"
        self.root.mkdir()
        self.paths = Site(str(self.root))
        self._mount_run()
        variables = {
            "sandbox_environment": {"SANDLOT_ROOT": str(self.root)},
            "sandbox_images": [{"name": "busybox", "source": "busybox"}],
            "sandbox_networks": [{"name": "default", "ipv4_subnet": subnet}],
            "sandbox_defaults": {"image": "busybox"},
        }
        inventory = directory / "ours.json"
        plays.write_inventory(inventory, "sandbox_hosts", variables)
        self.runner = plays.Runner(inventory)

    def _mount_run(self) -> None:
        """/run is memory on every host; on a disk, pins and sockets would cost what they don't."""
        os.mkdir(self.run)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.run], check=True)

    @property
    def playbook(self) -> Path:
        return PLAYS / "deploy_sandbox.yml"

    @property
    def run(self) -> str:
        return os.path.dirname(self.paths.run)

    def deploy(self, number: int, *, verbose: bool = False) -> plays.Play:
        instances = [{"name": name, "command": WORKLOAD} for name in names(number)]
        return self.runner.run(self.playbook, verbose=verbose, sandbox_instances=instances)

    def teardown(self) -> plays.Play:
        return self.runner.run(PLAYS / "teardown_sandbox.yml")

    def ping(self, playbook: Path) -> plays.Play:
        return self.runner.run(playbook)

    def inits(self) -> dict[str, int]:
        found = {
            name: runtime.running(self.paths.sandbox(name)) for name in runtime.names(self.paths)
        }
        return {name: running.pid for name, running in found.items() if running is not None}

    def launcher(self) -> int:
        answer: dict[str, Any] = Launcher(self.paths).ping() or {}
        return int(answer["pid"])

    def outside(self) -> list[int]:
        """The launcher and its zygote; inits without a parent are children of the launcher, too."""
        launcher = self.launcher()
        running = set(self.inits().values())
        return [launcher, *(pid for pid in processes.children(launcher) if pid not in running)]

    def memory(self) -> Memory:
        inits = self.inits().values()
        workloads = [child for pid in inits for child in processes.children(pid)]
        return Memory(
            init=[processes.pss(pid) for pid in inits],
            launcher=sum(processes.pss(pid) for pid in self.outside()),
            workload=[processes.pss(pid) for pid in workloads],
        )

    def disk(self) -> list[int]:
        return [processes.disk_usage(self.paths.sandbox(name).state) for name in self.inits()]

    def wakeups(self, seconds: float) -> int:
        pids = [*self.outside(), *self.inits().values()]
        return sum(processes.wakeups_during(pids, seconds).values())

    def exec_seconds(self, name: str) -> float:
        """The whole command, from the start of its interpreter to its exit."""
        command = [self.paths.command, "exec", name, "--", "true"]
        started = time.monotonic()
        subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment}
        )
        return time.monotonic() - started

    @property
    def environment(self) -> dict[str, str]:
        return {"SANDLOT_ROOT": str(self.root)}

    def megabits_per_second(self, seconds: float) -> float:
        sandbox = self.paths.sandbox(names(1)[0])
        record = store.read(sandbox.record) or {}
        address = record["interfaces"][0]["ipv4"].partition("/")[0]
        return pump.megabits_per_second(sandbox.pin("net"), address, seconds, ())

    def clean_up(self) -> list[str]:
        """Tear down whatever there is; what remained of it, by force removed."""
        problems = []
        if os.path.exists(self.paths.state) or os.path.exists(self.paths.lib):
            try:
                self.teardown()
            except (plays.PlayError, subprocess.TimeoutExpired) as error:
                problems.append(str(error))
        remains = leftovers.find(self.paths)
        leftovers.remove(self.paths)
        subprocess.run(["umount", self.run], check=True)
        return problems + remains


def names(number: int) -> list[str]:
    return [f"idle-{index:03}" for index in range(number)]
