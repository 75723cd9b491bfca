# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Versions of ansible-core on the versions of Python that they support, as controllers.

controller = controllers.here("2.16.19", 11)
controller.run("ansible-playbook", "--version")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import isolation

TOP = Path(__file__).resolve().parents[2]
# The newest release of each version, with the first and the last Python 3 that it supports.
CORES = {
    "2.16.19": (10, 12),
    "2.17.14": (10, 12),
    "2.18.19": (11, 13),
    "2.19.14": (11, 13),
    "2.20.10": (12, 14),
    "2.21.5": (12, 14),
    "2.22.0rc1": (13, 15),
}
OLDEST, NEWEST = min(CORES), max(CORES)


@dataclass(frozen=True)
class Controller:
    """``prefix`` are the words before each command, ``works_in`` is its directory as it sees it."""

    prefix: tuple[str, ...]
    works_in: str

    def run(self, *words: str) -> str:
        """Both outputs of a command that succeeds."""
        done = subprocess.run(
            [*self.prefix, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}: {done.stdout}"
        return done.stdout


def pairs(minors: tuple[int, ...]) -> list[tuple[str, int]]:
    return [
        (core, minor)
        for minor in minors
        for core, (first, last) in CORES.items()
        if first <= minor <= last
    ]


def interpreter(minor: int) -> str | None:
    """A Python 3 of this machine that can make environments; those of pyenv count as well."""
    name = f"python3.{minor}"
    kept = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"), reverse=True)
    for place in (shutil.which(name), *map(str, kept)):
        command = [str(place), "-c", "import ensurepip, venv"]
        if place and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return place
    return None


def here(core: str, minor: int, works_in: str) -> Controller:
    """A controller on this machine, which has that Python."""
    environment = _cached(f"cores/{core}-3.{minor}", lambda place: _environment(place, core, minor))
    home = os.path.join(works_in, "home")
    os.mkdir(home)
    path = f"{environment}/bin:{os.environ['PATH']}"
    return Controller(
        ("env", f"--chdir={works_in}", f"ANSIBLE_HOME={home}", f"PATH={path}"), works_in
    )


def _environment(place: Path, core: str, minor: int) -> None:
    python = interpreter(minor)
    assert python is not None
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    packages = wheels(core, minor)
    subprocess.run(installing(f"{place}/bin/python", core, str(packages)), check=True)


def installing(python: str, core: str, packages: str) -> list[str]:
    """The command that installs ansible-core from a directory, without a network."""
    command = [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", packages]
    return [*command, f"ansible-core=={core}"]


def wheels(core: str, minor: int) -> Path:
    """A directory with ansible-core and what it needs, for that Python."""
    return _cached(f"wheels/{core}-3.{minor}", lambda place: _download(place, core, minor))


def _download(place: Path, core: str, minor: int) -> None:
    machine = os.uname().machine
    only = ["--only-binary=:all:", f"--python-version=3.{minor}"]
    for platform in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"):
        only.append(f"--platform={platform}_{machine}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(place), *only]
    with isolation.outside():
        subprocess.run([*command, f"ansible-core=={core}"], check=True)


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """A directory that is there as a whole or not at all; an environment can't be moved."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(base, "sandlot", name)
    complete = place / ".complete"
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make(place)
        complete.touch()
    return place


def collection() -> Path:
    """The archive of the collection, built from this tree into a directory of its own."""
    place = Path(tempfile.mkdtemp(prefix="collection", dir="/var/tmp"))
    command = ["make", "--no-print-directory", "collection", f"BUILD={place}"]
    subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    (archive,) = place.glob("*.tar.gz")
    return archive
