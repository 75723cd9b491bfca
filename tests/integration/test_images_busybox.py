# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The busybox image as a newcomer uses it: names, addresses, and what its shell finds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import isolation
import pytest
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox
from debian_mirror import mirror
from image_fixtures import BUSYBOX, output, prepare, run
from sandlot import images
from sandlot.images import busybox, programs
from sandlot.images.model import Job
from sandlot.kernel.program import PATH

pytestmark = needs_root

PACKAGES = ("busybox", "iputils-ping")


def unpacked(directory: Path) -> Path:
    """Debian's busybox with libraries, and its ping: this machine has the static one."""
    mirror()
    # Another apt may be writing its lists.
    eventually(lambda: downloaded(directory), 60.0)
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, directory], check=True)
    (directory / "programs").mkdir()
    for name in ("busybox", "ping"):
        found = [path for path in directory.rglob(f"bin/{name}") if path.is_file()]
        found[0].rename(directory / "programs" / name)
    return directory / "programs"


def downloaded(directory: Path) -> bool:
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", *PACKAGES]
    with isolation.outside():
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode == 0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two sandboxes of a busybox with libraries, one of them a web server."""
    directory = unpacked(tmp_path_factory.mktemp("packages"))
    with deployed() as deployment, pytest.MonkeyPatch.context() as patch:
        patch.setattr(busybox, "CANDIDATES", (str(directory / "busybox"),))
        patch.setattr(busybox, "PATH", f"{directory}:{PATH}")
        prepare(deployment, BUSYBOX)
        web = ["httpd", "-f", "-p", "80", "-h", "/etc"]
        deployment.converged(on_network("web", command=web), on_network("a"))
        yield deployment


def on_network(name: str, **options: Any) -> dict[str, Any]:
    return sandbox(name, networks=[{"name": "default"}], **options)


def address(host: Deployment) -> str:
    lines = output(host, "a", "cat", "/etc/hosts").splitlines()
    return next(line.split()[0] for line in lines if line.endswith("\tweb"))


@pytest.mark.parametrize("shell", [[], ["sh", "-c"]], ids=["exec", "shell"])
@pytest.mark.parametrize("by", ["name", "address"])
def test_neighbours_are_reached(host: Deployment, shell: list[str], by: str) -> None:
    target = "web" if by == "name" else address(host)
    commands = {
        f"wget -q -O - http://{target}/passwd": "root:x:0:0:",
        f"ping -c 1 {target}": "1 received",
        f"nslookup {target}": f"Address: {address(host)}" if by == "name" else "name = web",
        f"nc {target} 80": "",
    }
    for command, expected in commands.items():
        argv = [*shell, command] if shell else command.split()
        assert expected in output(host, "a", *argv), command


def test_names_that_are_no_neighbours_are_looked_up_elsewhere(host: Deployment) -> None:
    done = run(host, "a", "nslookup", "nosuchname.invalid")
    # A worker of pytest has no way to the servers of this machine.
    said = done.stdout + done.stderr
    assert "Server:" in said or "no servers could be reached" in said
    assert "bad address" in run(host, "a", "wget", "http://nosuchname.invalid/").stderr


def test_applets_without_a_way_are_not_offered(host: Deployment) -> None:
    """The control: they are in the program, and refused."""
    for name in ("traceroute", "arping"):
        assert "not found" in run(host, "a", "sh", "-c", name).stderr
    done = run(host, "a", "busybox", "ping", "-c", "1", "127.0.0.1")
    assert "permission denied" in done.stderr


def test_the_image_is_small_and_nothing_changes_it(host: Deployment) -> None:
    image = images.lookup(host.paths, "busybox")
    assert image.size < 8 << 20
    assert prepare(host, BUSYBOX) == []
    assert set(image.evidence) >= {busybox.find(), str(Path(busybox.find() or "").parent / "ping")}


def test_without_ping_of_iputils_there_is_none(
    host: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other programs of that name need raw sockets."""
    (tmp_path / "ping").symlink_to(os.path.realpath("/bin/ls"))
    monkeypatch.setattr(busybox, "PATH", str(tmp_path))
    built(tmp_path / "build")
    assert not (tmp_path / "build/root/bin/ping").exists()
    assert (tmp_path / "build/root/bin/wget").is_symlink()


def built(directory: Path) -> None:
    (directory / "root").mkdir(parents=True)
    spec = images.normalise_all([BUSYBOX])[0]
    busybox.build(Job(spec, "0", str(directory / "root"), str(directory), lambda *_: None))


def test_an_image_is_made_where_no_program_may_run(host: Deployment, tmp_path: Path) -> None:
    """As where /var is mounted with noexec. Sandboxes have mounts of their own."""
    mount = ["mount", "-t", "tmpfs", "-o", "noexec", "none", tmp_path]
    subprocess.run(mount, check=True)
    try:
        built(tmp_path / "build")
        with pytest.raises(PermissionError):
            subprocess.run([tmp_path / "build/root/bin/busybox", "--list"], check=False)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert programs.linker(busybox.find() or "")
