# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Trees that many tests need are made once per session and linked into each deployment.

The files of all copies are the same inodes: a test that changes one replaces it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from sandlot import images
from sandlot.host import payload
from sandlot.plan import apply_all
from sandlot.site import Site

BUSYBOX = {"name": "busybox", "source": "busybox"}
_made: dict[str, Path] = {}
_state: dict[Path, list[tuple[str, int, int, int]]] = {}


def linked(name: str, make: Callable[[Path], object], target: Path) -> None:
    """Puts the tree called ``name`` at ``target``; ``make`` writes it when there is none yet."""
    if name not in _made:
        directory = _top() / name
        make(directory)
        _made[name], _state[directory] = directory, _look(directory)
    shutil.copytree(_made[name], target, symlinks=True, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """A copy for targets on a file system of their own."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)


def release(site: Site) -> None:
    """The present engine, installed and compiled, as `sandbox_host` leaves it."""

    def make(directory: Path) -> None:
        payload.install(Site(str(directory)), payload.sources())

    # A host that has an engine is upgraded by the run that follows.
    if not os.path.lexists(f"{site.lib}/{payload.PACKAGE}"):
        linked("release", make, Path(site.root))


def image(site: Site) -> None:
    """The image that a deployment begins with."""

    def make(directory: Path) -> None:
        master = Site(str(directory))
        os.makedirs(master.state, mode=0o700)
        apply_all(images.operations(master, images.normalise_all([BUSYBOX])))

    linked("image", make, Path(site.root))


def _top() -> Path:
    if not _top_directory:
        # On the file system of the deployments, for links.
        _top_directory.append(Path(tempfile.mkdtemp(prefix="slt", dir="/var/tmp")))
    return _top_directory[0]


def directory(name: str) -> Path:
    """An empty directory that goes with the trees."""
    made = _top() / name
    made.mkdir()
    return made


_top_directory: list[Path] = []


def _look(directory: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for parent, _, files in os.walk(directory):
        for name in files:
            status = os.lstat(os.path.join(parent, name))
            found.append((f"{parent}/{name}", status.st_mode, status.st_size, status.st_mtime_ns))
    return sorted(found)


def assert_unchanged() -> None:
    """No test wrote through a link."""
    for directory, before in _state.items():
        changed = {entry[0] for entry in set(before) ^ set(_look(directory))}
        assert not changed, f"a test has changed what others share: {sorted(changed)}"


def remove() -> None:
    for directory in _top_directory:
        shutil.rmtree(directory)
    _top_directory.clear()
    _made.clear()
    _state.clear()
