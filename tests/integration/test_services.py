# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hosts with sysvinit: what starts, keeps and ends sandboxes there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot.host import facts, install, services
from sandlot.launcher.client import Launcher
from service_hosts import SYSVINIT, machine, runs

pytestmark = needs_root
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="module")
def sysvinit() -> Iterator[Deployment]:
    with machine(SYSVINIT) as deployment:
        etc = Path(deployment.paths.root, "etc")
        (etc / "inittab").write_text("id:2:initdefault:\n")
        deployment.set_up()
        yield deployment


def script(host: Deployment, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The init script as init calls it: an environment with nothing but the runlevel."""
    command = [f"{host.paths.root}/etc/init.d/sandlot", *words]
    return subprocess.run(
        command, env={"PATH": PATH, **env}, capture_output=True, text=True, check=False
    )


def links(host: Deployment) -> list[str]:
    etc = Path(host.paths.root, "etc")
    return sorted(str(link.relative_to(etc)) for link in etc.glob("rc?.d/*sandlot"))


def test_sysvinit_is_told_once(sysvinit: Deployment) -> None:
    paths = sysvinit.paths
    assert facts.gather(paths)["service_manager"] == "sysvinit"
    names = [link.replace(link[6:8], "") for link in links(sysvinit)]
    assert len(names) == 7, names
    assert install.present(paths, check=False).actions == []
    done = subprocess.run(
        ["shellcheck", f"{paths.root}/etc/init.d/sandlot", f"{paths.lib}/service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_damage_is_repaired(sysvinit: Deployment) -> None:
    paths = sysvinit.paths
    before = links(sysvinit)
    subprocess.run(
        ["chroot", paths.root, "update-rc.d", "sandlot", "disable"], check=True, capture_output=True
    )
    assert links(sysvinit) != before
    Path(paths.root, "etc/init.d/sandlot").write_text("#!/bin/sh\n")
    wanted = ["runtime: write", "runtime: enable", "runtime: keep", "runtime: upgrade"]
    for check in (True, False):
        found = install.present(paths, check=check).actions
        assert [" ".join(action.split()[:2]) for action in found] == wanted, found
    assert links(sysvinit) == before
    assert install.present(paths, check=False).actions == []


def test_exit_statuses_of_the_init_script(sysvinit: Deployment) -> None:
    assert script(sysvinit).returncode == 2
    assert script(sysvinit, "explode").returncode == 2
    assert script(sysvinit, "start").returncode == 0
    assert script(sysvinit, "status").returncode == 0
    assert script(sysvinit, "start").returncode == 0
    assert script(sysvinit, "stop").returncode == 0
    assert script(sysvinit, "status").returncode == 3
    assert script(sysvinit, "stop").returncode == 0
    assert script(sysvinit, "try-restart").returncode == 0
    assert runs(sysvinit) is None
    assert script(sysvinit, "force-reload").returncode == 0
    assert runs(sysvinit) is not None


def test_a_launcher_is_kept_whoever_started_it(sysvinit: Deployment) -> None:
    paths = sysvinit.paths
    assert script(sysvinit, "start").returncode == 0
    for _ in range(2):
        pid = runs(sysvinit)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: runs(sysvinit) not in (None, pid))
    assert script(sysvinit, "stop").returncode == 0
    Launcher(paths).ensure()
    assert script(sysvinit, "keep").returncode == 0
    pid = runs(sysvinit)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: runs(sysvinit) not in (None, pid))


def test_a_boot_and_a_shutdown(sysvinit: Deployment) -> None:
    sysvinit.converged(sandbox("a"))
    pid = sysvinit.pid("a")
    assert script(sysvinit, "restart").returncode == 0
    assert sysvinit.pid("a") == pid
    assert script(sysvinit, "stop", RUNLEVEL="2").returncode == 0
    assert sysvinit.pid("a") == pid
    assert script(sysvinit, "start").returncode == 0
    assert script(sysvinit, "stop", RUNLEVEL="6").returncode == 0
    assert sysvinit.info("a")["pid"] is None
    assert runs(sysvinit) is None
    sysvinit.reboot()
    assert script(sysvinit, "start", RUNLEVEL="2").returncode == 0
    assert sysvinit.pid("a")
    sysvinit.converged(purge=True)


def test_it_is_removed(sysvinit: Deployment) -> None:
    paths = sysvinit.paths
    assert services.left(paths)
    found = install.absent(paths, check=True).actions
    assert "runtime: remove the service sandlot" in found
    install.absent(paths, check=False)
    assert links(sysvinit) == []
    assert not os.path.exists(f"{paths.root}/etc/init.d/sandlot")
    assert services.left(paths) == []
    assert install.absent(paths, check=False).actions == []
    sysvinit.set_up()
