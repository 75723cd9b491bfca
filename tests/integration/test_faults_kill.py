# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A run that is killed at any system call can be run again and converges; nothing is left over.

strace kills the run at the Nth call of a family, for N = 1, 2, ... until a run gets through. After
each kill a second run converges, a third has nothing to do, and removing everything leaves what was
there before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, deployed, free_port, needs_root, sandbox
from sandlot import cgroups, network, runtime
from sandlot.errors import SandlotError
from sandlot.launcher.client import Launcher
from sandlot.network.observe import is_ours
from sandlot.paths import Paths
from sandlot.plan import apply_all

pytestmark = [needs_root, pytest.mark.slow]

FAMILIES = {
    "rename": "rename,renameat,renameat2",
    "netlink": "sendto,sendmsg",
    "files": "mkdir,mkdirat,rmdir,unlink,unlinkat,symlink,fsync,ftruncate",
    "processes": "clone,clone3,fork,vfork,setns,connect",
}
# There are hundreds of these, and each is like its neighbours.
STRIDES = {"files": 11}
KILLED = "+++ killed by SIGKILL"
# Of the launcher's workers: what makes namespaces and roots.
WORKER_FAMILIES = {
    "mount": "mount,move_mount,open_tree,mount_setattr,fsmount,umount2,pivot_root",
    "namespaces": "unshare,setns,clone,clone3,fork",
    "messages": "sendmsg,sendto,rename",
}


@dataclass(frozen=True)
class Scenario:
    """From one set of sandboxes to another."""

    before: list[dict[str, Any]]
    after: list[dict[str, Any]]


PORT = free_port()
WEB = sandbox("web", published_ports=[f"{PORT}:80"], memory="64m")
SIDE = sandbox("side", network_mode="container:web")
PLUGGED = {"name": "default", "mac_address": "02:00:00:00:00:77", "aliases": ["www"]}
SCENARIOS = {
    "create": Scenario([], [WEB, sandbox("worker")]),
    "change": Scenario([WEB, sandbox("worker")], [{**WEB, "hostname": "www"}, sandbox("other")]),
    "remove": Scenario([WEB, sandbox("worker")], []),
    "network": Scenario([WEB, SIDE], [{**WEB, "networks": [PLUGGED]}, SIDE]),
    "sharer": Scenario([WEB, SIDE], [{**WEB, "hostname": "www"}, SIDE]),
    "both": Scenario([WEB, SIDE], []),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


def killed(
    host: Deployment, specs: list[dict[str, Any]], calls: str, number: int, log: Path
) -> bool:
    """Whether a run, or its nft, was killed at its ``number``th call of ``calls``.

    The run is a fork of this process, which spares it the imports; it waits to be traced.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            host.run(*specs, purge=True)
        finally:
            os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    with traced(pid, calls, number, log):
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    return KILLED in log.read_text()


@contextlib.contextmanager
def traced(pid: int, calls: str, number: int, log: Path) -> Iterator[None]:
    """strace kills ``pid`` and whatever it forks at the ``number``th call."""
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={number}"]
    command = ["strace", "-f", "-o", str(log), *inject, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        assert "attached" in strace.stderr.readline()
        try:
            yield
        finally:
            strace.terminate()


def clear(host: Deployment) -> None:
    """Back to a host without sandboxes and networks."""
    result = host.run(purge=True)
    assert not result.failed, result.failed
    apply_all(network.teardown_operations(host.paths, network.observe(host.paths)))
    state = cgroups.observe(host.paths, [])
    apply_all(cgroups.teardown_operations(host.paths, state))
    host.declare()


def left_over(host: Deployment) -> list[str]:
    """Names of everything of ours, but the runtime and the images."""
    paths, found = host.paths, []
    for top in (paths.state, paths.run, f"{paths.root}/etc"):
        for directory, names, files in os.walk(top):
            names[:] = [name for name in names if f"{directory}/{name}" != paths.images]
            found += [f"{directory}/{name}" for name in [*names, *files]]
    state = network.observe(paths)
    found += state.links if not os.environ.get("SANDLOT_SHARED_HOST") else ours(paths, state)
    found += [*state.tables.present, *cgroups.observe(paths, []).parents]
    return sorted(found)


def ours(paths: Paths, state: network.NetworkState) -> list[str]:
    return [name for name, link in state.links.items() if is_ours(paths, link)]


def baseline(host: Deployment) -> list[str]:
    """What is there without sandboxes, once there have been some."""
    host.run(sandbox("first"), purge=True)
    clear(host)
    return left_over(host)


def converges(host: Deployment, specs: list[dict[str, Any]]) -> None:
    result = host.run(*specs, purge=True)
    assert not result.failed, result.failed
    assert host.run(*specs, purge=True).actions == []
    for spec in specs:
        assert runtime.running(host.paths, spec["name"]) is not None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_run(host: Deployment, name: str, family: str, tmp_path: Path) -> None:
    scenario, log = SCENARIOS[name], tmp_path / "strace"
    clean = baseline(host)
    number, interrupted = 1 - STRIDES.get(family, 1), True
    while interrupted:
        number += STRIDES.get(family, 1)
        if scenario.before:
            host.run(*scenario.before, purge=True)
        interrupted = killed(host, scenario.after, FAMILIES[family], number, log)
        converges(host, scenario.after)
        clear(host)
        assert left_over(host) == clean, f"killed at call {number}"
    assert number > 1


@pytest.mark.parametrize("family", WORKER_FAMILIES)
def test_killed_workers(host: Deployment, family: str, tmp_path: Path) -> None:
    """The launcher or its children killed at the Nth call: explained, and repaired by a run."""
    specs, log = [WEB, sandbox("worker")], tmp_path / "strace"
    clean = baseline(host)
    number, interrupted = 0, True
    while interrupted:
        number += 1
        answer = Launcher(host.paths).ping()
        assert answer
        with traced(answer["pid"], WORKER_FAMILIES[family], number, log):
            run_or_explained(host, specs)
        interrupted = KILLED in log.read_text()
        converges(host, specs)
        clear(host)
        assert left_over(host) == clean, f"killed at call {number}"
    assert number > 1


def run_or_explained(host: Deployment, specs: list[dict[str, Any]]) -> None:
    with contextlib.suppress(SandlotError):
        host.run(*specs, purge=True)
