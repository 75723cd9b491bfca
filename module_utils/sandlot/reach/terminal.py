# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The caller's terminal and signals while a command runs inside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
import tty
from typing import Any, Callable, Dict, List, Optional

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Terminal:
    """The caller's terminal, raw while attached: the inner pty handles keys. Always restored."""

    def __init__(self, stdin: Optional[int], stdout: int) -> None:
        self._input = stdin if stdin is not None and os.isatty(stdin) else None
        self._screen = next(
            (fd for fd in (stdout, self._input) if fd is not None and os.isatty(fd)), None
        )
        self._before: Optional[List[Any]] = None
        self._master: Optional[int] = None

    @property
    def types(self) -> bool:
        """Whether standard input is the terminal."""
        return self._input is not None

    def size(self) -> Optional[List[int]]:
        """[rows, columns], None without a terminal."""
        if self._screen is None:
            return None
        try:
            raw = fcntl.ioctl(self._screen, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return None  # it hung up
        return list(struct.unpack("HHHH", raw)[:2])

    def attach(self, master: int) -> None:
        self._master = master
        self.resize()
        if self._input is not None:
            with contextlib.suppress(termios.error):  # it hung up
                self._before = termios.tcgetattr(self._input)
                tty.setraw(self._input, termios.TCSANOW)

    def restore(self) -> None:
        if self._before is not None and self._input is not None:
            # At once, as output that the terminal holds back would block the call; it may have
            # hung up, too.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input, termios.TCSANOW, self._before)
            self._before = None

    def resize(self) -> None:
        """Give the inner pty the terminal's size; the kernel sends SIGWINCH when it differs."""
        size = self.size()
        if size and self._master is not None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


class Forwarder:
    """Collects signals that are sent to this process in a pipe; ``deliver`` hands them on.

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
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue  # as with nohup, or in the background of a script
                self._before[number] = signal.signal(number, _noted)
        return self

    def __exit__(self, *dummy: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._reader is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._reader)
            os.close(self._writer)
            self._reader = None

    def deliver(self) -> None:
        """Hand on each signal that has arrived."""
        if self._reader is None:
            return
        for number in os.read(self._reader, 4096):
            if number in self._before:
                self._action(number)


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the wake-up descriptor has the signal, but only a handler catches it."""
