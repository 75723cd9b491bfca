# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Publishes the progress of image builds, for other processes to read."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Dict, List, Sequence

from .. import store
from ..errors import StateError
from ..kernel import files
from ..kernel.namespaces import start_time
from ..site import Site

Json = Dict[str, Any]

_INTERVAL = 0.5
QUEUED, RECORD = "queued", "record"


def directory(site: Site) -> str:
    # A dot, as the directories of sandboxes are here too and their names never begin with one.
    return f"{site.run}/.images"


def _myself() -> Json:
    pid = os.getpid()
    return {"pid": pid, "start": start_time(pid)}


class _File:
    """A small file in memory, removed when the work ends."""

    def __init__(self, site: Site, name: str) -> None:
        self._directory = directory(site)
        self._path = f"{self._directory}/{name.replace('/', '%2F')}.json"

    def write(self, data: Json) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        store.write(self._path, data, durable=False)

    def remove(self) -> None:
        store.remove(self._path)
        with contextlib.suppress(OSError):  # other builds run, or no file was written
            os.rmdir(self._directory)


class Run:
    """Publishes the images that a run is going to build."""

    def __init__(self, site: Site, names: Sequence[str]) -> None:
        self._names = list(names)
        self._made: List[str] = []
        self._started = time.time()
        # Names of images don't begin with a dot.
        self._file = _File(site, f".run-{os.getpid()}")

    def __enter__(self) -> Run:
        self._tell()
        return self

    def done(self, name: str) -> None:
        """Note that the trees of an image are built; its record is written later, with the lock."""
        if name in self._names:
            self._names.remove(name)
            self._made.append(name)
        self._tell()

    def _tell(self) -> None:
        if self._names or self._made:
            names = {"queued": self._names, "made": self._made}
            self._file.write({**_myself(), **names, "started": self._started})
        else:
            self._file.remove()

    def __exit__(self, *dummy: object) -> None:
        self._file.remove()


class Progress:
    """Publishes the progress of one image, at most twice a second, until the build ends."""

    def __init__(self, site: Site, name: str) -> None:
        self._file = _File(site, name)
        self._fixed = {**_myself(), "name": name, "started": time.time()}
        self._phase = ""
        self._due = 0.0

    def __enter__(self) -> Progress:
        return self

    def update(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase == self._phase and now < self._due:
            return
        if phase != self._phase:
            # The bytes of an earlier attempt do not count for the rate.
            self._fixed.update(phase_started=time.time(), phase_from=done)
        self._phase, self._due = phase, now + _INTERVAL
        data = {"phase": phase, "done": done, "total": total, "now": time.time()}
        self._file.write({**self._fixed, **data})

    def __exit__(self, *dummy: object) -> None:
        self._file.remove()


def forget_dead(site: Site) -> None:
    """Remove the files of builds that were killed."""
    for path, report in _reports(site).items():
        if not report:
            store.remove(path)
    with contextlib.suppress(OSError):  # it was never made, or other builds run
        os.rmdir(directory(site))


def observe(site: Site) -> Dict[str, Json]:
    """The progress of each running build; files of killed builds do not count."""
    making: Dict[str, Json] = {}
    queued: Dict[str, Json] = {}
    for data in _reports(site).values():
        if "name" in data:
            making[data["name"]] = data
        for key, phase in (("queued", QUEUED), ("made", RECORD)):
            for name in data.get(key, []):
                queued[name] = {**data, "name": name, "phase": phase, "done": 0, "total": 0}
    return {**queued, **making}


def _reports(site: Site) -> Dict[str, Json]:
    """Reports by file name; {} for a damaged file, or one of a killed build."""
    reports: Dict[str, Json] = {}
    for entry in files.names(directory(site)):
        if entry.endswith(".json"):
            path, report = f"{directory(site)}/{entry}", {}
            with contextlib.suppress(StateError):
                report = store.read(path) or {}
            alive = "pid" in report and report.get("start") == start_time(report["pid"])
            reports[path] = report if alive else {}
    return reports
