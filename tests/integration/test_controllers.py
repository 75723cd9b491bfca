# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The collection from controllers with other versions of ansible-core and of Python.

`make controllers` runs each pair, in Debian sandboxes, and reaches the host over SSH. Else the
oldest and the newest ansible-core that a Python of this machine runs are tried, without SSH.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import controllers
import isolation
import pytest
import ssh_hosts
from controllers import NEWEST, OLDEST, Controller
from converge_fixtures import Deployment, deployed, needs_root, sandbox, scrub, short_directory
from debian_mirror import debian, needs_tools
from image_fixtures import BUSYBOX, prepare
from tour import Tour

pytestmark = [needs_root, pytest.mark.slow]

ALL = bool(os.environ.get("SANDLOT_CONTROLLERS"))
MINORS = (11, 12, 13, 14)
SUITES = {11: "bookworm", 13: "trixie", 14: "sid"}
PACKAGES = ["openssh-client", "python3", "python3-venv"]
SYSTEM = "/usr/bin/python3"


@pytest.fixture(scope="module")
def archive() -> Iterator[Path]:
    made = controllers.collection()
    yield made
    shutil.rmtree(made.parent)


@pytest.fixture
def root() -> Iterator[Path]:
    """A root of sandlot on this machine, which is the host."""
    with short_directory() as directory:
        host = Deployment(directory)
        try:
            yield Path(directory)
        finally:
            scrub(host.paths)


@pytest.mark.skipif(ALL, reason="each pair is tried")
@pytest.mark.parametrize("core", [OLDEST, NEWEST])
def test_here(core: str, archive: Path, root: Path) -> None:
    minors = [minor for one, minor in controllers.pairs(MINORS) if one == core]
    known = [minor for minor in minors if controllers.interpreter(minor)]
    if not known:
        pytest.skip(f"ansible-core {core} needs Python 3.{minors[0]} to 3.{minors[-1]}")
    with short_directory() as directory:
        tour = Tour(controllers.here(core, known[0], directory), Path(directory), root)
        host = {"ansible_connection": "local", "ansible_python_interpreter": SYSTEM}
        tour.lay_out(archive, host)
        tour.go()


# -- each pair, in a sandbox


@dataclass(frozen=True)
class Box:
    """A sandbox with a Python, and a directory that it shares with this machine."""

    deployment: Deployment
    directory: Path
    minor: int

    def controller(self, core: str) -> Controller:
        name = controllers.wheels(core, self.minor).name
        place, environment = self.directory / core, f"/opt/{core}"
        place.mkdir()
        paths = self.deployment.paths
        given = {"HOME": "/root", "PATH": f"{environment}/bin:/usr/bin:/bin"}
        prefix = ["env", f"SANDLOT_ROOT={paths.root}", paths.command, "exec", "-w", str(place)]
        prefix += [word for key, text in given.items() for word in ("-e", f"{key}={text}")]
        controller = Controller((*prefix, "controller", "--"), str(place))
        own = self.minor in SUITES
        python = f"python3.{self.minor}" if own else controllers.interpreter(self.minor)
        controller.run(str(python), "-m", "venv", environment)
        made = f"{environment}/bin/python"
        controller.run(*controllers.installing(made, core, f"/wheels/{name}"))
        return controller


@pytest.fixture(scope="module")
def server() -> Iterator[ssh_hosts.Server]:
    with ssh_hosts.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def box(request: pytest.FixtureRequest, server: ssh_hosts.Server) -> Iterator[Box]:
    minor: int = request.param
    suite, mounts = SUITES.get(minor) or _own_suite(), _interpreter(minor)
    wheels = controllers.wheels(controllers.pairs((minor,))[0][0], minor).parent
    with short_directory() as directory, deployed() as deployment:
        with isolation.outside():
            prepare(deployment, BUSYBOX, debian("controller", suite, packages=PACKAGES))
        spec = sandbox(
            "controller",
            image="controller",
            network_mode="host",
            allow_host_network=True,
            volumes=[f"{directory}:{directory}:idmap", f"{wheels}:/wheels:ro", *mounts],
        )
        deployment.converged(spec)
        yield Box(deployment, Path(directory), minor)


def _own_suite() -> str:
    """The Debian that this machine's own interpreters are made for."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _interpreter(minor: int) -> list[str]:
    """The mount of a Python of this machine that no suite has."""
    if minor in SUITES:
        return []
    found = controllers.interpreter(minor)
    if found is None:
        pytest.skip(f"no Debian has Python 3.{minor}, and this machine has none either")
    # Its programs may name their libraries by path.
    prefix = Path(found).resolve().parents[1]
    return [f"{prefix}:{prefix}:ro"]


@needs_tools
@pytest.mark.skipif(not ALL, reason="make controllers")
@pytest.mark.parametrize(
    ("box", "core"),
    [(minor, core) for core, minor in controllers.pairs(MINORS)],
    indirect=["box"],
    # All cores of a Python, then the next Python.
    scope="module",
    ids=lambda value: value if isinstance(value, str) else f"3.{value}",
)
def test_in_a_sandbox(
    box: Box, core: str, archive: Path, server: ssh_hosts.Server, root: Path
) -> None:
    controller = box.controller(core)
    place = Path(controller.works_in)
    for name in ("user", "known"):
        shutil.copy2(server.top / name, place)
    host = {
        **server.variables(ssh_hosts.WARDEN),
        "ansible_ssh_private_key_file": f"{place}/user",
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={place}/known",
        "ansible_python_interpreter": SYSTEM,
    }
    tour = Tour(controller, place, root)
    tour.lay_out(archive, host)
    tour.go()
