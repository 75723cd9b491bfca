# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes the status file for the host, in place, through one descriptor."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Union

    Value = Union[bool, int, float, str]

SIZE = 512
# The health of a sandbox without a healthcheck.
NO_HEALTH = "none"
# JSON by one formatting operation: an encoder would take memory in each sandbox.
_FORMAT = (
    b'{"state": "%s", "pid": %d, "since": %.6f, "restarts": %d, "exit_code": %d, "signal": %d, '
    b'"final": %s, "lost_log_bytes": %d, "health": "%s", "failing_streak": %d}\n'
)
# Negative numbers stand for unknown values, which readers leave out.
_UNKNOWN: Dict[str, Value] = {
    "state": "starting",
    "pid": -1,
    "since": 0.0,
    "restarts": 0,
    "exit_code": -1,
    "signal": -1,
    "final": False,
    "lost_log_bytes": 0,
    "health": NO_HEALTH,
    "failing_streak": 0,
}


class Status:
    """The status, with keys as in ``runtime.status``; each change is one pwrite of fixed size."""

    def __init__(self, fd: int, restarts: int) -> None:
        self._fd = fd
        self.values = _UNKNOWN.copy()
        self.values["restarts"] = restarts

    def update(self, **changes: Value) -> None:
        self.values.update(changes)
        os.pwrite(self._fd, _encoded(self.values), 0)


def encoded(values: Dict[str, Value]) -> bytes:
    """The content of the file; values that are not given are unknown."""
    return _encoded({**_UNKNOWN, **values})


def _encoded(v: Dict[str, Value]) -> bytes:
    state, final = str(v["state"]).encode(), b"true" if v["final"] else b"false"
    run = (v["pid"], v["since"], v["restarts"], v["exit_code"], v["signal"])
    health = str(v["health"]).encode()
    known = (state, *run, final, v["lost_log_bytes"], health, v["failing_streak"])
    return (_FORMAT % known).ljust(SIZE)
