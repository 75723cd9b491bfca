# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hosts with OpenRC: what starts, keeps and ends sandboxes there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from sandlot.host import facts, install
from service_hosts import OPENRC, machine, runs

pytestmark = needs_root
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

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
        deployment.set_up()
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
    assert install.present(paths, check=False).actions == []
    link.unlink()
    assert "runtime: enable the service sandlot" in install.present(paths, check=False).actions
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
    install.absent(paths, check=False)
    assert not os.path.lexists(f"{paths.root}/etc/init.d/sandlot")
    assert not os.path.lexists(f"{paths.root}/etc/runlevels/default/sandlot")
    assert install.absent(paths, check=False).actions == []
    openrc.set_up()
