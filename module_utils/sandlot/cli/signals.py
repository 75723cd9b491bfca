# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Signals as events of a poll loop."""

from __future__ import annotations

import os
import signal
from typing import Any, Callable, Dict, Optional

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Forwarder:
    """While entered, signals sent to this process wait in a pipe and ``deliver`` hands them on.

    Handlers belong to the process, so only its main thread can forward.
    """

    def __init__(self, action: Callable[[int], None], *, active: bool) -> None:
        self._action = action
        self._active = active
        self._before: Dict[int, Any] = {}
        self._reader: Optional[int] = None
        self._writer = -1
        self._wakeup = -1

    def fileno(self) -> Optional[int]:
        return self._reader

    def __enter__(self) -> Forwarder:
        if self._active:
            self._reader, self._writer = os.pipe()
            for fd in (self._reader, self._writer):
                os.set_blocking(fd, False)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            for number in (*FORWARDED, signal.SIGWINCH):
                self._before[number] = signal.signal(number, _noted)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._reader is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._reader)
            os.close(self._writer)
            self._reader = None

    def deliver(self) -> None:
        """Hand on each signal that has arrived since."""
        if self._reader is None:
            return
        for number in os.read(self._reader, 4096):
            if number in self._before:
                self._action(number)


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor carries the signal; a handler is needed for it to be caught."""
