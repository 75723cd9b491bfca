# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Commands inside sandboxes of a deployment, and network namespaces of the host's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from converge_fixtures import Deployment
from sandboxes import workload_of
from sandlot import network
from sandlot.kernel import mount_points
from sandlot.network.common import declare
from sandlot.sandbox import runtime

NAMED = "/run/netns"


def run_inside(host: Deployment, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """As a user would, through `sandlot exec`."""
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    command = [host.paths.command, "exec", name, "--", *argv]
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output(host: Deployment, name: str, *argv: str) -> str:
    done = run_inside(host, name, *argv)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def netns(host: Deployment, name: str) -> int:
    return os.stat(f"/proc/{host.pid(name)}/ns/net").st_ino


def workload(host: Deployment, name: str) -> tuple[int, str]:
    """Pid and start time of the workload, on the host."""
    pid = workload_of(host.pid(name))
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return pid, stat[19]


def pins(host: Deployment, name: str) -> set[str]:
    return runtime.pinned(host.paths.sandbox(name))


def declare_networks(host: Deployment, **options: dict[str, object]) -> None:
    """The default network and one of 256 addresses for each name, with more options."""
    wanted = [{"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}]
    for index, (name, extra) in enumerate(options.items()):
        wanted.append({"name": name, "ipv4_subnet": f"{host.prefix}.{16 + index}.0/24", **extra})
    declare.save(host.paths, network.normalise(host.paths, wanted))


@contextlib.contextmanager
def named_netns(host: Deployment) -> Iterator[str]:
    """The path of a network namespace as `ip netns add` makes it."""
    name, before = f"sl{host.paths.tag}", mount_points.within(NAMED)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield f"{NAMED}/{name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        if NAMED not in before:
            # Made by the first `ip netns add` of a machine.
            subprocess.run(["umount", NAMED], check=True)
        with contextlib.suppress(OSError):
            os.rmdir(NAMED)


def remake(path: str) -> None:
    """Another namespace under the same name."""
    name = os.path.basename(path)
    subprocess.run(["ip", "netns", "delete", name], check=True)
    subprocess.run(["ip", "netns", "add", name], check=True)
