# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""podman and its collection under the same clock, with storage and namespaces of their own.

A private mount namespace keeps its mounts away from the machine, and lets crun see one version of
cgroups where the machine has two; a private network namespace keeps its bridge and its rules away.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import clock
import collection
import leftovers
import playing
import processes
import pump
import static_busybox
from collection import NotAvailable

IMAGE = "localhost/sandlot-bench:1"
UNIFIED = "/sys/fs/cgroup/unified"
WORKLOAD = ["sleep", "1000000"]
APPLETS = ("sleep", "true", "sh", "mkdir", "httpd")
# podman keeps locks, caches and markers in places no setting moves; "cat" ends with this process.
HOLD = f"""
if mountpoint -q {UNIFIED}; then umount {UNIFIED}; fi
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
ip link set lo up
echo ready
exec cat
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{directory}/storage"
runroot = "{directory}/run"
"""
# The limits are for machines where root may not raise its own, which podman does by default.
ENGINE = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{directory}/tmp"
volume_path = "{directory}/volumes"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_config_dir = "{directory}/networks"
"""


class Peer:
    """podman below ``directory``; NotAvailable when it does not work on this machine."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("podman") is None:
            raise NotAvailable("podman is not installed")
        self.directory = directory / "podman"
        self.directory.mkdir()
        self.environment = self._configure(collection.find())
        self.holder = self._hold()
        self.prefix = ["nsenter", f"--target={self.holder.pid}", "--mount", "--net"]
        inventory = playing.write_inventory(directory / "peer.json", "containers", {})
        self.runner = playing.Runner(
            inventory, self.environment, [*self.prefix, f"--wd={playing.PROJECT}"]
        )

    def _configure(self, collections: Path) -> dict[str, str]:
        storage = self.directory / "storage.conf"
        storage.write_text(STORAGE.format(directory=self.directory))
        engine = self.directory / "containers.conf"
        engine.write_text(ENGINE.format(directory=self.directory))
        return {
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(engine),
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
        }

    def _hold(self) -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise NotAvailable("can't make namespaces for podman")
        return holder

    def prepare(self) -> None:
        """Make the image and try it."""
        root = self.directory / "root"
        (root / "bin").mkdir(parents=True)
        shutil.copy(static_busybox.PROGRAM, root / "bin" / "busybox")
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        archive = shutil.make_archive(str(self.directory / "image"), "tar", root)
        try:
            self.podman("import", archive, IMAGE)
            self.podman("run", "--rm", IMAGE, "true")
        except clock.Failed as error:
            raise NotAvailable(f"podman does not work here: {error}") from error

    def podman(self, *arguments: str) -> clock.Done:
        return clock.run([*self.prefix, "podman", *arguments], environment=self.environment)

    def converge(self, number: int, state: str) -> playing.Play:
        """One call of podman_container for each container, as its documentation shows."""
        task = {
            "name": "Converge containers",
            "containers.podman.podman_container": {"name": "{{ item }}", **_options(state)},
            "loop": names(number),
        }
        return self._play(task)

    def converge_batch(self, number: int) -> playing.Play:
        """One call of podman_containers for all of them."""
        containers = [{"name": name, **_options("started")} for name in names(number)]
        task = {
            "name": "Converge containers in a batch",
            "containers.podman.podman_containers": {"containers": containers},
        }
        return self._play(task)

    def _play(self, task: dict[str, Any]) -> playing.Play:
        playbook = self.directory / "play.json"
        play = {"name": "podman", "hosts": "containers", "gather_facts": False, "tasks": [task]}
        playbook.write_text(json.dumps([play]))
        return self.runner.run(playbook)

    def running(self) -> list[str]:
        return self.podman("ps", "--format={{.Names}}").output.split()

    def conmon(self, number: int) -> list[int]:
        pids = self.podman("inspect", "--format={{.State.ConmonPid}}", *names(number)).output
        return [processes.pss(int(pid)) for pid in pids.split()]

    def address(self, name: str) -> str:
        template = "{{.NetworkSettings.IPAddress}}"
        return self.podman("inspect", f"--format={template}", name).output.strip()

    def megabits_per_second(self, name: str, seconds: float) -> float:
        pid = self.podman("inspect", "--format={{.State.Pid}}", name).output.strip()
        address = self.address(name)
        return pump.megabits_per_second(f"/proc/{pid}/ns/net", address, seconds, self.prefix)

    def run_seconds(self, name: str) -> float:
        """podman by itself, without Ansible."""
        return self.podman("run", "--detach", f"--name={name}", IMAGE, *WORKLOAD).seconds

    def remove_all(self) -> None:
        self.podman("rm", "--all", "--force", "--time=0")

    def close(self) -> None:
        """Remove the containers, then the namespaces they ran in and podman's empty cgroups."""
        self.remove_all()
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait()
        for top in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
            for path in [*top.glob("*/"), top]:
                leftovers.remove_cgroup(path)


def _options(state: str) -> dict[str, Any]:
    if state == "absent":
        return {"state": state}
    # A PID 1 without handlers ignores SIGTERM; the kill spares podman ten seconds of waiting.
    return {"state": state, "image": IMAGE, "command": WORKLOAD, "stop_signal": 9}


def names(number: int) -> list[str]:
    return [f"sandlot-bench-{index:03}" for index in range(number)]
