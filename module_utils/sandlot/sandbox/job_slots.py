# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Numbers of jobs, each with a range of ids and a lock; what dead jobs left is removed.

The process that runs a job holds the lock of its number, which the kernel releases however that
process ends. A job makes the directory for what it writes first and removes it last, so a number
without one has nothing to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional

from .. import store
from ..errors import LaunchError, SandlotError, StateError
from ..kernel import flock, namespaces, trees
from ..kernel.files import names
from ..kernel.signals import signal
from ..site import JOB, JobPaths, SandboxPaths, Site
from . import runtime

# As many as there are ranges of ids.
MOST = 256
# A worker of the launcher may still start the job of a client that has died.
_WORKER_SECONDS, _POLL_SECONDS = 60.0, 0.01
_KILL_SECONDS = 30.0
# Processes leave their cgroups a moment before or after their end can be seen.
_CGROUP_SECONDS = 10.0
# A run that holds the writer lock may wait for the job itself; the next run removes its layer then.
_WRITER_SECONDS = 5.0
# Launch files for later jobs.
KNOWN = "known"
_KEPT = frozenset(("lock", KNOWN, "etc"))


def paths_of(site: Site, number: int) -> JobPaths:
    return JobPaths(site, f"{JOB}{number}")


def networked(site: Site, number: int) -> SandboxPaths:
    """The sandbox of a job on a network."""
    return site.sandbox(f"{JOB[1:]}{number:032x}")


class Slot:
    """A number of this process."""

    def __init__(self, paths: JobPaths, number: int, lock: int) -> None:
        self.paths = paths
        self.number = number
        self._lock = lock

    def release(self) -> None:
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the lock and the files that wait for the next job of the number, too."""
        trees.empty(self.paths.run)
        os.rmdir(self.paths.run)


def take(site: Site, first: int = 0) -> Slot:
    """Take the first free number, without what a dead job left of it."""
    if not os.path.isdir(site.run):
        hint = "run the sandbox_host module or role first"
        raise LaunchError(f"the sandlot runtime is not installed in {site.lib}", hint=hint)
    for number in range(first, MOST):
        slot = _taken(site, number)
        if slot is None:
            continue
        try:
            clear(slot.paths)
            return slot
        except (SandlotError, OSError):
            slot.release()
            raise
    hint = "run it again when others have ended"
    raise SandlotError(f"{MOST} jobs run on this host, which is the most", hint=hint)


def _taken(site: Site, number: int) -> Optional[Slot]:
    """The number, unless another process has it."""
    paths = paths_of(site, number)
    while True:
        os.makedirs(paths.run, mode=0o700, exist_ok=True)
        try:
            fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # another run has just removed the directory
        if not flock.try_take(fd):
            os.close(fd)
            return None
        if flock.in_place(fd, paths.lock):
            return Slot(paths, number, fd)
        os.close(fd)


def sweep(site: Site, *, is_writer: bool) -> Dict[str, LaunchError]:
    """Remove what dead jobs left, and the files that wait for later ones; the failures.

    A caller that ``is_writer`` holds the writer lock.
    """
    failures: Dict[str, LaunchError] = {}
    for slot in _free(site):
        try:
            clear(slot.paths, is_writer=is_writer)
            slot.remove()
        except LaunchError as error:
            failures[slot.paths.name[1:]] = error
        finally:
            slot.release()
    return failures


def _free(site: Site) -> Iterator[Slot]:
    """Take each number of which there is something, one after the other."""
    for number in numbers(site):
        slot = _taken(site, number)
        if slot is not None:
            yield slot


def numbers(site: Site) -> List[int]:
    """Numbers with a directory of state or run."""
    known = {*names(site.run), *names(os.path.dirname(paths_of(site, 0).state))}
    words = (name[len(JOB) :] for name in known if name.startswith(JOB))
    return sorted(int(word) for word in words if word.isdigit() and int(word) < MOST)


def end_all(site: Site) -> None:
    """End the jobs of all processes, whose own clean-up follows; wait for both.

    The caller does not hold the writer lock, which a clean-up may need.
    """
    for number in numbers(site):
        paths = paths_of(site, number)
        deadline = time.monotonic() + _KILL_SECONDS
        while flock.is_held(paths.lock) and time.monotonic() < deadline:
            _end(paths)
            _end(networked(site, number))
            time.sleep(_POLL_SECONDS)
    for failure in sweep(site, is_writer=False).values():
        raise failure


def clear(paths: JobPaths, *, is_writer: bool = False) -> None:
    """Remove all of a job, which may have been killed at any moment, but its launch file."""
    if not os.path.lexists(paths.state) and not os.path.lexists(paths.init):
        return
    _await_worker(paths)
    _end(paths)
    launch = _launch(paths)
    for directory in launch.get("cgroups", ()):
        _remove_cgroup(str(directory))
    for name in names(paths.run):
        if name not in _KEPT:
            trees.remove_entry(f"{paths.run}/{name}")
    # After a boot, nothing tells whether the layer had a size.
    sized = os.path.exists(paths.site.projects) if not launch else launch["job"]["disk_size"]
    if sized or os.path.lexists(paths.layer_image):
        _remove_sized_layer(paths, is_writer=is_writer)
    _remove_state(paths)


def _launch(paths: JobPaths) -> Mapping[str, Any]:
    try:
        return store.read(paths.launch) or {}
    except StateError:
        return {}


def _await_worker(paths: JobPaths) -> None:
    """Wait for a worker of the launcher, which locks the directory."""
    fd = os.open(paths.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not flock.take_until(fd, time.monotonic() + _WORKER_SECONDS, _POLL_SECONDS):
            hint = "the launcher may be stopped; see sandlot launcher --status"
            raise LaunchError(f"{paths.name[1:]} is still being started", hint=hint)
    finally:
        os.close(fd)


def _end(paths: SandboxPaths) -> None:
    """Kill init, by which all processes of the job end, and wait for that."""
    pidfd = runtime.open_init(paths)
    if pidfd is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not namespaces.pidfd_ends(pidfd, _KILL_SECONDS):
            hint = "a process in it hangs in the kernel: see /proc/PID/stack, and run again"
            problem = f"{paths.name}: init survived SIGKILL for {_KILL_SECONDS:.0f} seconds"
            raise LaunchError(problem, hint=hint)
    finally:
        os.close(pidfd)


def _remove_cgroup(directory: str) -> None:
    deadline = time.monotonic() + _CGROUP_SECONDS
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() >= deadline:
                raise
        time.sleep(0.001)


def _remove_state(paths: JobPaths) -> None:
    if os.path.lexists(paths.state):
        # No look at the host's mounts, of which each sandbox has some: nothing is mounted here.
        trees.empty(paths.state)
        os.rmdir(paths.state)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(paths.state))  # other jobs run


def _remove_sized_layer(paths: JobPaths, *, is_writer: bool) -> None:
    from .. import lock, sizes
    from . import layers

    own = lock.exclusive(paths.site, wait=_WRITER_SECONDS)
    with contextlib.nullcontext() if is_writer else own:
        layers.discard(paths)
        sizes.sweep(paths.site)
