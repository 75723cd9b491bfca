# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Temporary directories of the image store: private, locked during a build, then renamed.

A build holds a flock on images/.tmp-KEY, so that a second run waits for the first one, and a sweep
can tell the leftovers of a killed run from a running build. images/.part-KEY has the files that a
later run resumes from; it belongs to the holder of .tmp-KEY.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import Iterator

from ..errors import ForeignError, SandlotError
from ..kernel import files, flock, processes
from ..kernel.trees import remove_entry, sync
from ..site import Site

TEMPORARY = ".tmp-"
PARTIAL = ".part-"
STOPPED_SECONDS = 60.0
POLL_SECONDS = 0.1
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def trees(site: Site) -> str:
    return f"{site.images}/trees"


def tree(site: Site, digest: str) -> str:
    return f"{trees(site)}/{digest}"


def kept(site: Site, key: str) -> str:
    return f"{site.images}/{PARTIAL}{key}"


def prepare(site: Site) -> None:
    for directory in (site.state, site.images, trees(site)):
        private_directory(directory)


def private_directory(path: str) -> None:
    """Make a directory that only we can enter; refuse one of another owner."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        problem = f"{path} is not a directory of user {os.geteuid()}"
        raise ForeignError(problem, hint="move it away; sandlot makes its own")
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(path, 0o700)


@contextlib.contextmanager
def temporary(site: Site, key: str) -> Iterator[str]:
    """An empty directory to build ``key`` in; waits for another run that builds it.

    At the end, the directory is removed with its contents.
    """
    path = f"{site.images}/{TEMPORARY}{key}"
    fd = _held(path)
    try:
        for name in os.listdir(path):
            remove_entry(f"{path}/{name}")
        yield path
    finally:
        remove_entry(path)
        os.close(fd)


def _held(path: str) -> int:
    """Lock the directory and return its descriptor; retry if its last holder removed it."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, _DIRECTORY)
            try:
                _lock(fd, path)
            except SandlotError:
                os.close(fd)
                raise
            if flock.in_place(fd, path):
                return fd
            os.close(fd)


def _lock(fd: int, path: str) -> None:
    """Wait for the lock as long as its holder runs; an error when the holder is stopped."""
    deadline = time.monotonic() + STOPPED_SECONDS
    while not flock.try_take(fd):
        holder = processes.flock_holder(path)
        if holder is None or not processes.is_stopped(holder):
            deadline = time.monotonic() + STOPPED_SECONDS
        elif time.monotonic() >= deadline:
            raise SandlotError(
                f"another run, {processes.describe(holder)}, makes what is in {path}",
                hint=f"continue it: kill -CONT {holder}; or end it, which releases the lock",
            )
        time.sleep(POLL_SECONDS)


def is_free(site: Site, key: str) -> bool:
    """Whether no run builds ``key``."""
    path = f"{site.images}/{TEMPORARY}{key}"
    return not flock.is_held(path)


def is_abandoned(path: str) -> bool:
    """Whether no run builds in this temporary directory."""
    return os.path.isdir(path) and not flock.is_held(path)


def is_busy(site: Site, start: str) -> bool:
    """Whether a run builds a key that begins with ``start``."""
    names = (name for name in files.names(site.images) if name.startswith(f"{TEMPORARY}{start}"))
    return any(not is_abandoned(f"{site.images}/{name}") for name in names)


def install(site: Site, directory: str, destination: str) -> None:
    """Sync a finished tree to disk, then rename it into place."""
    sync(directory)
    if os.path.isdir(destination):
        discard(site, destination)
    os.rename(directory, destination)


def discard(site: Site, path: str) -> None:
    """Rename a tree away, then remove it, so that a half-removed tree is never used."""
    parts = os.path.relpath(path, trees(site)).replace("/", "-")
    with temporary(site, f"removed-{parts}") as aside:
        os.rename(path, f"{aside}/tree")
