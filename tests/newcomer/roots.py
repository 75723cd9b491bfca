# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Pristine Debian roots: mmdebstrap's minbase, and what the README has a user install.

Each is kept outside the tree as an archive whose name holds a hash of what it is made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

import readme
from image import sources

USER = "newcomer"
PASSWORD = "sandlot"
# debian in the README's inventory has an SSH key and sudo, and the host has nothing of sandlot's.
REMOTE_USER = "debian"
REMOTE_PACKAGES = ("openssh-server", "python3", "sudo")
_HOOKS = (
    'chroot "$1" useradd --create-home --shell /bin/bash --groups sudo {user}',
    'echo {user}:{password} | chroot "$1" chpasswd',
)


def local(suite: str, packages: tuple[str, ...] = readme.packages()) -> Path:
    """The root of somebody who follows the README, or a page with other packages."""
    return _cached(suite, ("sudo", *packages), USER)


def remote(suite: str, *more: str) -> Path:
    """The root of a host of the README's inventory, with more packages."""
    return _cached(suite, (*REMOTE_PACKAGES, *more), REMOTE_USER)


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sandlot" / "newcomer"


def _cached(suite: str, packages: tuple[str, ...], user: str) -> Path:
    recipe = repr((suite, packages, user, _HOOKS, Path(__file__).read_text()))
    name = f"{suite}-{user}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.tar"
    archive = cache() / name
    archive.parent.mkdir(parents=True, exist_ok=True)
    with open(archive.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(suite, packages, user, archive)
    return archive


def _make(suite: str, packages: tuple[str, ...], user: str, archive: Path) -> None:
    # With .tar as its end, mmdebstrap writes an archive.
    new = archive.with_suffix(".new.tar")
    hooks = [hook.format(user=user, password=PASSWORD) for hook in _HOOKS]
    command = [
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
        f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        # A machine that tests, and its mirror, may be frozen at different times.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *(f"--customize-hook={hook}" for hook in hooks),
        *(suite, str(new), "-"),
    ]
    lines = sources(suite).splitlines(keepends=True)
    # sid gets neither updates nor security fixes apart from itself.
    archives = [line for line in lines if suite != "sid" or line.endswith(" sid main\n")]
    subprocess.run(command, input="".join(archives), text=True, check=True)
    new.rename(archive)
