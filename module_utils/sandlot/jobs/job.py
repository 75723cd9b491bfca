# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One job: its options, and its life from the launch file to the last trace of it.

A launch file stays for later jobs with the same options, for which nothing has to be planned then.
Imports little, as most of the time of a short job is Python's.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import socket
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from .. import store, wire
from ..errors import LaunchError, SandlotError
from ..kernel import namespaces
from ..kernel.files import read_field, write_value
from ..sandbox import job_slots, runtime
from ..site import JobPaths, SandboxPaths, Site
from . import leftovers

Json = Dict[str, Any]
# Options that name other objects of the host, which may change without a trace in any file here.
_OF_OTHERS = frozenset(("devices", "mounts", "network_mode", "volumes"))
_NO_NETWORK = "none"
_ANSWER_SECONDS = 5.0
# After the end of its command, init ends at once; its limit is for a sandbox without CPU time.
_ENDING = 2.0
# In place of a command in the launch file: init gets it from the client.
UNUSED = ("job",)
# Launch files that a number keeps.
_MOST_KNOWN = 8
_OOM_FILES = ("memory.events", "memory.oom_control")


class Job:
    """The options of a job: those of its sandbox as users write them, and its command."""

    def __init__(self, image: str, options: Mapping[str, Any], argv: Sequence[str]) -> None:
        self.image = image
        self.options = {name: value for name, value in options.items() if value is not None}
        self.argv = list(argv)

    @property
    def is_networked(self) -> bool:
        return bool(self.options.get("networks"))

    def key(self, site: Site) -> str:
        """A text that is the same for jobs with one launch file; "" for those without."""
        own = {name for name, value in self.options.items() if value != _NO_NETWORK}
        if not _OF_OTHERS.isdisjoint(own):
            return ""
        plain = self.image.partition("@")[0].replace("/", "%2F")
        files = [f"{site.images}/{plain}.json", site.subuid, site.subgid]
        files += [f"{site.root}/etc/passwd", f"{site.root}/etc/group"]
        # The path of the engine has its version.
        given = [self.image, self.options, os.path.realpath(__file__), [*map(_state, files)]]
        return json.dumps(given, sort_keys=True)


def _state(path: str) -> List[int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns]


# Makes the launch file of a job, with its parent cgroups; TakenIds when others have the ids.
Prepare = Callable[[Site, Job, job_slots.Slot], Json]


class TakenIds(SandlotError):
    """The ids of a number are somebody else's."""


class Running:
    """A job whose sandbox runs; init waits for the command, and ends with the connection."""

    def __init__(self, site: Site, job: Job, prepare: Prepare) -> None:
        self.slot, self.launch, self.argv = _prepared(site, job, prepare)
        self.paths: SandboxPaths = self.slot.paths
        self.init: Optional[runtime.Running] = None
        self._pidfd: Optional[int] = None
        self.label = self.paths.name.lstrip(".")

    def start(self) -> None:
        """Make the layer and the cgroups, and start init."""
        paths, own = self.slot.paths, self.launch["job"]
        _make_state(paths.state)
        store.replace(paths.launch, _encoded(self.launch), durable=False)
        os.makedirs(paths.etc, mode=0o755, exist_ok=True)
        for name, text in own["etc"].items():
            path, content = f"{paths.etc}/{name}", text.encode()
            if store.read_bytes(path) != content:
                store.replace(path, content, mode=0o644, durable=False)
        _make_layer(paths, self.launch)
        for directory in self.launch["cgroups"]:
            # Those of the last job may be there: their launch file has just been made.
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o755)
        for file, value in own["limits"]:
            write_value(file, value)
        _request(paths)
        self.init, self._pidfd = runtime.running(paths), runtime.open_init(paths)

    @property
    def oom_kills(self) -> int:
        files = (
            f"{directory}/{name}" for directory in self.launch["cgroups"] for name in _OOM_FILES
        )
        counts = (read_field(file, "oom_kill") for file in files)
        return next((count for count in counts if count is not None), 0)

    def await_end(self) -> None:
        """Wait a moment for init, which ends by itself when nobody is connected to it."""
        if self._pidfd is not None:
            namespaces.pidfd_ends(self._pidfd, _ENDING)
            os.close(self._pidfd)
            self._pidfd = None

    def remove(self) -> None:
        """End all processes of the job, and remove it."""
        try:
            job_slots.clear(self.slot.paths)
        finally:
            self.slot.release()


def _prepared(site: Site, job: Job, prepare: Prepare) -> tuple[job_slots.Slot, Json, List[str]]:
    """A number, its launch file (that of an earlier job, or a new one), and the command line."""
    number = 0
    while True:
        slot = job_slots.take(site, number)
        try:
            leftovers.clear(site, slot.number)
            launch = _launch(site, job, slot, prepare)
            own = launch["job"]
            return slot, launch, words(job, own["entrypoint"], own["command"])
        except TakenIds:
            slot.release()
            number = slot.number + 1
        except (SandlotError, OSError):
            slot.release()
            raise


def _launch(site: Site, job: Job, slot: job_slots.Slot, prepare: Prepare) -> Json:
    key, known = job.key(site), f"{slot.paths.run}/{job_slots.KNOWN}"
    file = f"{known}/{binascii.crc32(key.encode()):08x}.json"
    launch = store.read(file) if key else None
    if launch is not None and _serves(launch, key):
        return launch
    launch = prepare(site, job, slot)
    launch["job"]["key"] = key
    if key:
        os.makedirs(known, mode=0o700, exist_ok=True)
        _forget_oldest(known)
        store.replace(file, _encoded(launch), durable=False)
    return launch


def _serves(launch: Mapping[str, Any], key: str) -> bool:
    """Whether a launch file is for these options, and all that it names is there."""
    parents = {os.path.dirname(directory) for directory in launch["cgroups"]}
    return launch["job"]["key"] == key and all(map(os.path.exists, (*launch["lower"], *parents)))


def _forget_oldest(known: str) -> None:
    with os.scandir(known) as entries:
        files = sorted((entry.stat().st_mtime_ns, entry.path) for entry in entries)
    for dummy, path in files[: max(0, len(files) - _MOST_KNOWN + 1)]:
        os.unlink(path)


def _encoded(launch: Json) -> bytes:
    return json.dumps({"schema": store.SCHEMA, **launch}, separators=(",", ":")).encode() + b"\n"


def words(job: Job, entrypoint: Sequence[str], command: Sequence[str]) -> List[str]:
    """The command line; ``command`` runs when the job names none, as with podman run."""
    argv = [*entrypoint, *(job.argv or command)]
    if not argv:
        hint = "name a program and its arguments"
        raise SandlotError(f"image {job.image} has no command of its own", hint=hint)
    return argv


def _make_state(path: str) -> None:
    while True:
        # The last one of other jobs may take the parent away in between.
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(path, mode=0o700, exist_ok=True)
            return


def _make_layer(paths: JobPaths, launch: Mapping[str, Any]) -> None:
    ids, size = launch["ids"], launch["job"]["disk_size"]
    if size:
        from .. import idmap, lock
        from ..sandbox import layers

        with lock.exclusive(paths.site):
            layers.make(paths, idmap.IdRange(ids["uid"], ids["size"]), size)
        return
    os.mkdir(paths.layer, 0o700)
    os.mkdir(paths.work, 0o700)
    os.mkdir(paths.upper, 0o755)
    os.chown(paths.upper, ids["uid"], ids["gid"])


def _request(paths: JobPaths) -> None:
    """Ask the launcher; without an answer soon, by its client, which wakes or starts it."""
    message: Optional[wire.Message] = None
    try:
        with wire.connect(paths.site.launcher_socket, timeout=_ANSWER_SECONDS) as connection:
            wire.send(connection, {"op": "run", "name": paths.name})
            message = wire.receive(connection)[0]
    except (FileNotFoundError, ConnectionError, BlockingIOError, socket.timeout):
        pass
    if message is not None and "error" not in message:
        return
    if message is not None and "errno" not in message:
        raise LaunchError(str(message["error"]), hint=str(message.get("hint", "")))
    # Its errors have remedies.
    from ..launcher.client import Launcher

    for failure in Launcher(paths.site).run([paths.name]).values():
        raise failure
