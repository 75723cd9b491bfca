# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Roots with another service manager: this machine's own, under an overlay with Debian packages."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import isolation
from converge_fixtures import Deployment, short_directory, untouched_host
from sandlot.launcher.client import Launcher

SYSVINIT = ("sysv-rc", "sysvinit-core", "insserv", "startpar", "initscripts")
OPENRC = ("openrc", "librc1", "libeinfo1", "insserv")
CACHE = Path.home() / ".cache/sandlot-tests/packages"


def _run(*words: str, cwd: Path | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"


def _package(name: str) -> Path:
    """The package's file, from the archive that this machine's apt knows."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not list(CACHE.glob(f"{name}_*.deb")):
        with isolation.outside():
            _run("apt-get", "-qq", "download", name, cwd=CACHE)
    return next(CACHE.glob(f"{name}_*.deb"))


def _unpack(package: Path, root: str) -> None:
    """Files only; links of directories that this machine has, such as /sbin, stay."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as reading:
        command = ["tar", "-x", "--keep-directory-symlink", "-C", root]
        subprocess.run(command, stdin=reading.stdout, check=True)
    assert reading.returncode == 0


@contextlib.contextmanager
def _machine(directory: str, packages: tuple[str, ...]) -> Iterator[str]:
    """This machine's root with packages more; what sandlot keeps is on file systems of their own,
    as an overlay can be no layer of another, and what this machine has of it is out of sight."""
    root, layer = f"{directory}/root", f"{directory}/layer"
    with contextlib.ExitStack() as stack:
        for place in (root, layer):
            os.mkdir(place)
        stack.callback(_run, "umount", layer)
        _run("mount", "-t", "tmpfs", "sandlot-test", layer)
        os.mkdir(f"{layer}/upper")
        os.mkdir(f"{layer}/work")
        options = f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work"
        stack.callback(_run, "umount", "--recursive", root)
        _run("mount", "-t", "overlay", "sandlot-test", "-o", options, root)
        _run("mount", "--make-shared", root)
        for place in ("run", "usr/local", "var/lib"):
            os.makedirs(f"{root}/{place}", exist_ok=True)
            _run("mount", "-t", "tmpfs", "-o", "mode=0755", "sandlot-test", f"{root}/{place}")
        for name in packages:
            _unpack(_package(name), root)
        yield root


@contextlib.contextmanager
def machine(packages: tuple[str, ...]) -> Iterator[Deployment]:
    with short_directory() as directory, untouched_host(f"{directory}/root"):
        with _machine(directory, packages) as root:
            deployment = Deployment(root)
            try:
                yield deployment
            finally:
                deployment.teardown()


def runs(host: Deployment) -> int | None:
    """The launcher's pid."""
    answer = Launcher(host.paths).ping()
    return int(answer["pid"]) if answer else None
