# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the engine's own sources, from files or from the zip that was sent, and installs them."""

from __future__ import annotations

import os
import sys
from typing import Container, Mapping

from .. import handover
from ..errors import HostError
from ..handover import PACKAGE, digest
from ..kernel import program
from ..kernel.trees import remove_tree, sync
from ..launcher.command import interpreter
from ..site import Site
from . import shared


def sources() -> dict[str, bytes]:
    """The content of every file of the engine, by its relative path on the host."""
    archive = getattr(__spec__.loader, "archive", None)
    if archive is not None:
        return handover.unpacked(archive)
    return handover.sources(os.path.dirname(handover.__file__))


def _release(site: Site, version: str) -> str:
    return f"{site.lib}/release-{version[:16]}"


def is_installed(site: Site) -> bool:
    """Whether the host's engine is this one, byte for byte, and only root's to change."""
    release, actual = handover.examined(site.lib)
    # The host's own engine need not be read twice.
    is_own = release == os.path.dirname(os.path.dirname(handover.__file__))
    wanted = actual if is_own else digest(sources())
    return actual == wanted and release == os.path.realpath(_release(site, wanted))


def current(site: Site) -> str:
    """Directory of the installed engine, "" when there is none."""
    target = f"{site.lib}/{PACKAGE}"
    return os.path.realpath(target) if os.path.exists(target) else ""


def install(site: Site, files: Mapping[str, bytes]) -> None:
    """Write the engine into its own directory, then switch to it by renaming one link."""
    release, before = _release(site, digest(files)), os.path.dirname(current(site))
    fresh = f"{release}.new"
    remove_tree(fresh)
    for path, content in files.items():
        os.makedirs(os.path.dirname(f"{fresh}/{path}"), exist_ok=True)
        with open(f"{fresh}/{path}", "wb") as handle:
            os.fchmod(handle.fileno(), 0o644)
            handle.write(content)
    for directory in {site.lib, *(os.path.dirname(f"{fresh}/{path}") for path in files)}:
        os.chmod(directory, 0o755)
    _compile(fresh)
    shared.write(interpreter(), fresh)
    sync(fresh)  # a rename may reach the disk before the files that it makes visible
    remove_tree(release)
    os.rename(fresh, release)
    _switch(f"{os.path.basename(release)}/{PACKAGE}", f"{site.lib}/{PACKAGE}")
    # A module of another controller may be importing the one before from its files.
    _remove_others(site, {os.path.basename(release), os.path.basename(before)})


def _compile(directory: str) -> None:
    """Compile bytecode, for the runtime and for later module executions, which use it."""
    for python in sorted({interpreter(), sys.executable}):
        done = program.run([python, "-I", "-m", "compileall", "-q", directory])
        if done.returncode:
            # It complains of each file: on a full disk, of all.
            problem = program.complaint(done).splitlines()[-1]
            hint = "remove the cause (df, df -i), then run again"
            raise HostError(f"{python} can't compile {directory}: {problem}", hint=hint)


def _switch(target: str, link: str) -> None:
    temporary = f"{link}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, link)


def _remove_others(site: Site, kept: Container[str]) -> None:
    for name in os.listdir(site.lib):
        if name.startswith("release-") and name not in kept:
            remove_tree(f"{site.lib}/{name}")
