# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot under the clock, on a root of its own: a deployment on this machine is untouched."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import clock
import leftovers
import playing
import processes
import pump
from sandlot import cgroups, network, store
from sandlot.launcher.client import Launcher
from sandlot.plan import apply_all
from sandlot.sandbox import runtime
from sandlot.site import Site

PLAYS = playing.PROJECT / "playbooks"
# Another one for each bench that runs at the same time.
SUBNET = f"10.213.{os.getpid() % 64 * 4}.0/22"
WORKLOAD = ["sleep", "1000000"]


@dataclass(frozen=True)
class Memory:
    """Bytes per idle sandbox."""

    init: list[int]
    launcher: int
    workload: list[int]

    @property
    def each(self) -> list[float]:
        """With its share of the launcher."""
        return [size + self.launcher / len(self.init) for size in self.init]


class Ours:
    """One moved root and the plays that run on it."""

    def __init__(self, directory: Path, subnet: str = SUBNET) -> None:
        self.root = directory / "host"
        self.root.mkdir()
        self.paths = Site(str(self.root))
        self._mount_run()
        self.variables = {
            "sandbox_environment": {"SANDLOT_ROOT": str(self.root)},
            "sandbox_images": [{"name": "busybox", "source": "busybox"}],
            "sandbox_networks": [{"name": "default", "ipv4_subnet": subnet}],
            "sandbox_defaults": {"image": "busybox"},
        }
        inventory = directory / "ours.json"
        playing.write_inventory(inventory, "sandbox_hosts", self.variables)
        self.runner = playing.Runner(inventory)

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

    def deploy(self, number: int, *, verbose: bool = False) -> playing.Play:
        made = instances(number)
        return self.runner.run(self.playbook, verbose=verbose, sandbox_instances=made)

    def steady(self, number: int, *, verbose: bool = False) -> playing.Play:
        """A deploy that has nothing to do."""
        play = self.deploy(number, verbose=verbose)
        if play.changed:
            raise playing.PlayError(f"the second deploy changed {play.changed} tasks")
        return play

    def teardown(self) -> playing.Play:
        return self.runner.run(PLAYS / "teardown_sandbox.yml")

    def command(self, *words: str) -> clock.Done:
        return clock.run([self.paths.command, *words], environment=self.environment)

    def restart(self, name: str) -> clock.Done:
        """With the CPU time of the launcher and the workers it waited for."""
        before = self.launcher_cpu()
        done = self.command("restart", name)
        return replace(done, cpu=done.cpu + self.launcher_cpu() - before)

    def launcher_cpu(self) -> float:
        return sum(processes.cpu_seconds(pid) for pid in self.outside())

    def forget_boot(self) -> None:
        """A boot leaves state alone; nothing in the kernel, nothing under run."""
        names_ = runtime.names(self.paths)
        launcher = Launcher(self.paths)
        launcher.destroy(names_)
        launcher.quit()
        apply_all(network.teardown_operations(self.paths, network.observe(self.paths)))
        observed = cgroups.observe(self.paths, names_)
        for name in names_:
            apply_all(cgroups.remove_operations(self.paths, name, observed))
        subprocess.run(["umount", self.run], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.run], check=True)

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
        """A supervisor that is awake counts to its init."""
        inits = self.inits().values()
        below = {pid: processes.children(pid) for pid in inits}
        own = {pid: [each for each in below[pid] if _same(pid, each)] for pid in inits}
        return Memory(
            init=[sum(processes.pss(each) for each in (pid, *own[pid])) for pid in inits],
            launcher=sum(processes.pss(pid) for pid in self.outside()),
            workload=[
                processes.pss(each) for pid in inits for each in below[pid] if each not in own[pid]
            ],
        )

    def disk(self) -> list[int]:
        return [processes.disk_usage(self.paths.sandbox(name).state) for name in self.inits()]

    def wakeups(self, seconds: float) -> int:
        pids = [*self.outside(), *self.inits().values()]
        return sum(processes.wakeups_during(pids, seconds).values())

    @property
    def environment(self) -> dict[str, str]:
        return {"SANDLOT_ROOT": str(self.root)}

    def address(self, name: str) -> str:
        record = store.read(self.paths.sandbox(name).record) or {}
        address: str = record["interfaces"][0]["ipv4"].partition("/")[0]
        return address

    def megabits_per_second(self, name: str, seconds: float) -> float:
        pin = self.paths.sandbox(name).pin("net")
        return pump.megabits_per_second(pin, self.address(name), seconds, ())

    def packet_seconds(self, name: str, number: int, *, fresh: bool = False) -> float:
        pin = self.paths.sandbox(name).pin("net")
        return pump.packet_seconds(pin, self.address(name), number, fresh=fresh)

    def clean_up(self) -> list[str]:
        """Tear down whatever there is; what remained of it, by force removed."""
        problems = []
        if os.path.exists(self.paths.state) or os.path.exists(self.paths.lib):
            try:
                self.teardown()
            except (clock.Failed, subprocess.TimeoutExpired) as error:
                problems.append(str(error))
        remains = leftovers.find(self.paths)
        leftovers.remove(self.paths)
        subprocess.run(["umount", self.run], check=True)
        return problems + remains


def _same(pid: int, other: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe") == os.readlink(f"/proc/{other}/exe")


def names(number: int) -> list[str]:
    return [f"idle-{index:03}" for index in range(number)]


def instances(number: int, **options: Any) -> list[dict[str, Any]]:
    return [{"name": name, "command": WORKLOAD, **options} for name in names(number)]
