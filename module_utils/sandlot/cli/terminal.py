# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The caller's terminal while a command has a pty of its own inside."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
import tty
from typing import Any, List, Optional


class Terminal:
    """Raw while attached, so that keys are the inner pty's business; restored in any case."""

    def __init__(self, stdin: Optional[int], stdout: int) -> None:
        self._input = stdin if stdin is not None and os.isatty(stdin) else None
        self._screen = next(
            (fd for fd in (stdout, self._input) if fd is not None and os.isatty(fd)), None
        )
        self._before: Optional[List[Any]] = None
        self._master: Optional[int] = None

    def size(self) -> Optional[List[int]]:
        """[rows, columns], None without a terminal."""
        if self._screen is None:
            return None
        raw = fcntl.ioctl(self._screen, termios.TIOCGWINSZ, bytes(8))
        return list(struct.unpack("HHHH", raw)[:2])

    def attach(self, master: int) -> None:
        self._master = master
        self.resize()
        if self._input is not None:
            self._before = termios.tcgetattr(self._input)
            tty.setraw(self._input, termios.TCSANOW)

    def restore(self) -> None:
        if self._before is not None and self._input is not None:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
            self._before = None

    @staticmethod
    def is_resize(number: int) -> bool:
        return number == signal.SIGWINCH

    def resize(self) -> None:
        """Give the inner pty the terminal's size; the kernel sends SIGWINCH when it differs."""
        size = self.size()
        if size and self._master is not None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
