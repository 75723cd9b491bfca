# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""How far the making of an image has come, for others to look at while it is made."""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Any, Dict, Optional, Type

from .. import store
from ..errors import StateError
from ..paths import Paths

_INTERVAL = 0.5


def _directory(paths: Paths) -> str:
    # Sandboxes' directories lie beside it; their names never begin with a dot.
    return f"{paths.run}/.images"


class Progress:
    """Writes a small file in memory, at most twice a second; it is gone when the work is done."""

    def __init__(self, paths: Paths, name: str) -> None:
        self._directory = _directory(paths)
        self._path = f"{self._directory}/{name.replace('/', '%2F')}.json"
        self._fixed = {"name": name, "pid": os.getpid(), "started": time.time()}
        self._phase = ""
        self._due = 0.0

    def __enter__(self) -> Progress:
        return self

    def update(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase == self._phase and now < self._due:
            return
        if phase != self._phase:
            self._fixed["phase_started"] = time.time()
        self._phase, self._due = phase, now + _INTERVAL
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        data = {**self._fixed, "phase": phase, "done": done, "total": total, "now": time.time()}
        store.write(self._path, data, durable=False)

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        store.remove(self._path)
        with contextlib.suppress(OSError):  # others are at work, or nothing was told
            os.rmdir(self._directory)


def forget_dead(paths: Paths) -> None:
    """Remove the files of makers that were killed."""
    directory = _directory(paths)
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(directory):
            if entry.endswith(".json") and not _is_alive(f"{directory}/{entry}"):
                store.remove(f"{directory}/{entry}")
        with contextlib.suppress(OSError):  # others are at work
            os.rmdir(directory)


def _is_alive(path: str) -> bool:
    try:
        data = store.read(path) or {}
    except StateError:
        return False
    return os.path.isdir(f"/proc/{data.get('pid')}")


def observe(paths: Paths) -> Dict[str, Dict[str, Any]]:
    """What is being made now, by image; a maker that was killed has left the file only."""
    found: Dict[str, Dict[str, Any]] = {}
    try:
        entries = os.listdir(_directory(paths))
    except FileNotFoundError:
        return found
    for entry in entries:
        with contextlib.suppress(StateError):
            path = f"{_directory(paths)}/{entry}"
            data = store.read(path) if entry.endswith(".json") else None
            if data and _is_alive(path):
                found[data["name"]] = data
    return found
