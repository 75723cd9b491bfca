# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Failures to reach into a sandbox; callers tell them apart by ``kind``, not by their text."""

from __future__ import annotations

import json

from ..errors import SandlotError

FAILED = "failed"
# The exit status of exec when sandlot itself fails, distinct from most commands' own (docker(1)).
STATUS = 125


class ReachError(SandlotError):
    """A failure with its kind, and the exit status of commands that run in a sandbox."""

    kind = FAILED
    status = STATUS


class Missing(ReachError):
    """The host has no such sandbox."""

    kind = "missing"


class Stopped(ReachError):
    """The sandbox exists and does not run."""

    kind = "stopped"


class Vanished(ReachError):
    """The sandbox ended while the command ran; docker shows the status of a killed process."""

    kind = "vanished"
    status = 137


class NotStarted(ReachError):
    """Init did not start the command: no such program or user, or no process to be had."""

    kind = "not-started"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TimedOut(ReachError):
    """The command ran longer than allowed; the status is that of timeout(1)."""

    kind = "timeout"
    status = 124


class TooMuchOutput(ReachError):
    """The command wrote more than allowed."""

    kind = "output-limit"


def status(error: SandlotError) -> int:
    return error.status if isinstance(error, ReachError) else STATUS


def line(token: str, error: SandlotError) -> str:
    """The failure as one line for machines.

    It follows on a line feed, as a command may leave its last line open. JSON in ASCII has no
    character that ends a line. Only the caller and this process know the token, so no command can
    write such a line.
    """
    kind = error.kind if isinstance(error, ReachError) else FAILED
    fields = {"kind": kind, "message": error.message, "hint": error.hint}
    return f"\n{token} {json.dumps(fields)}\n"
