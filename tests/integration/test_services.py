# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hosts without systemd: what starts, keeps and ends sandboxes there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot.converge import facts, host, services
from sandlot.launcher.client import Launcher
from service_hosts import OPENRC, SYSVINIT, machine

pytestmark = needs_root
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="module")
def sysvinit() -> Iterator[Deployment]:
    with machine(SYSVINIT) as deployment:
        etc = Path(deployment.paths.root, "etc")
        (etc / "inittab").write_text("id:2:initdefault:\n")
        deployment.prepare()
        yield deployment


def script(host: Deployment, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The init script as init calls it: an environment with nothing but the runlevel."""
    command = [f"{host.paths.root}/etc/init.d/sandlot", *words]
    return subprocess.run(
        command, env={"PATH": PATH, **env}, capture_output=True, text=True, check=False
    )


def runs(host: Deployment) -> int | None:
    """The launcher's pid."""
    answer = Launcher(host.paths).ping()
    return int(answer["pid"]) if answer else None


def links(host: Deployment) -> list[str]:
    etc = Path(host.paths.root, "etc")
    return sorted(str(link.relative_to(etc)) for link in etc.glob("rc?.d/*sandlot"))


def test_sysvinit_is_told_once(sysvinit: Deployment) -> None:
    paths = sysvinit.paths
    assert facts.gather(paths)["service_manager"] == "sysvinit"
    names = [link.replace(link[6:8], "") for link in links(sysvinit)]
    assert len(names) == 7, names
    assert host.present(paths, check=False).actions == []
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
        found = host.present(paths, check=check).actions
        assert [" ".join(action.split()[:2]) for action in found] == wanted, found
    assert links(sysvinit) == before
    assert host.present(paths, check=False).actions == []


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
    found = host.absent(paths, check=True).actions
    assert "runtime: remove the service sandlot" in found
    host.absent(paths, check=False)
    assert links(sysvinit) == []
    assert not os.path.exists(f"{paths.root}/etc/init.d/sandlot")
    assert services.left(paths) is None
    assert host.absent(paths, check=False).actions == []
    sysvinit.prepare()


# OpenRC looks for its own files below /, so it is run in a mount namespace that shows the other
# root's in their places. The root itself is shared, as sandboxes' pins are mounts.
_WITHIN = """\
root=$1
shift
mount --make-private /
for place in usr etc run; do
    mount --bind "$root/$place" "/$place"
done
for state in started starting stopping inactive daemons options exclusive; do
    mkdir -p "/run/openrc/$state"
done
echo "$LEVEL" >/run/openrc/softlevel
exec "$@"
"""


@pytest.fixture(scope="module")
def openrc() -> Iterator[Deployment]:
    with machine(OPENRC) as deployment:
        deployment.prepare()
        yield deployment


def within(
    host: Deployment, *words: str, level: str = "default"
) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", _WITHIN, "sh"]
    return subprocess.run(
        [*command, host.paths.root, *words],
        env={"PATH": PATH, "LEVEL": level},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_openrc_is_told_once(openrc: Deployment) -> None:
    paths = openrc.paths
    assert facts.gather(paths)["service_manager"] == "openrc"
    link = Path(paths.root, "etc/runlevels/default/sandlot")
    assert os.readlink(link) == "/etc/init.d/sandlot"
    assert host.present(paths, check=False).actions == []
    link.unlink()
    assert "runtime: enable the service sandlot" in host.present(paths, check=False).actions
    done = subprocess.run(
        ["shellcheck", f"{paths.root}/etc/init.d/sandlot"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_openrc_starts_and_stops(openrc: Deployment) -> None:
    openrc.converged(sandbox("a"))
    pid = openrc.pid("a")
    done = within(openrc, "rc-service", "sandlot", "keep")
    assert done.returncode == 0, done.stdout + done.stderr
    done = within(openrc, "rc-service", "sandlot", "status")
    assert (done.returncode, openrc.pid("a")) == (0, pid), done.stdout + done.stderr
    assert within(openrc, "rc-service", "sandlot", "reload").returncode == 0
    assert within(openrc, "rc-service", "sandlot", "stop").returncode == 0
    assert (runs(openrc), openrc.pid("a")) == (None, pid)
    assert within(openrc, "rc-service", "sandlot", "status").returncode == 3
    assert within(openrc, "rc-service", "sandlot", "start").returncode == 0
    assert runs(openrc) is not None
    # `openrc shutdown` changes to that level before it stops the services.
    done = within(openrc, "rc-service", "sandlot", "stop", level="shutdown")
    assert (runs(openrc), openrc.info("a")["pid"]) == (None, None), done.stdout + done.stderr
    openrc.reboot()
    assert within(openrc, "rc-service", "sandlot", "start").returncode == 0
    assert openrc.pid("a")
    openrc.converged(purge=True)


def test_openrc_is_left_as_it_was(openrc: Deployment) -> None:
    paths = openrc.paths
    host.absent(paths, check=False)
    assert not os.path.lexists(f"{paths.root}/etc/init.d/sandlot")
    assert not os.path.lexists(f"{paths.root}/etc/runlevels/default/sandlot")
    assert host.absent(paths, check=False).actions == []
    openrc.prepare()
