# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A user at a terminal, who types commands and answers what asks for a password."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import select
import subprocess
import termios
import time
from functools import partial
from pathlib import Path

from roots import PASSWORD

SECONDS = 600.0
# The module termios lacks them.
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
_ASKED = re.compile(rb"(\[sudo[^\r\n]*: ?|BECOME password[^\r\n]*: ?)\Z")


@dataclasses.dataclass(frozen=True)
class Done:
    code: int
    text: str
    seconds: float
    passwords: int

    def __str__(self) -> str:
        return f"exit status {self.code} after {self.seconds:.0f} s:\n{self.text}"


class Terminal:
    def __init__(self, multiplexer: Path, uid: int, login: list[str]) -> None:
        self.multiplexer = multiplexer
        self.uid = uid
        self.login = login
        self.profile = ""

    def type(self, command: str, answers: tuple[tuple[str, str], ...] = ()) -> Done:
        """Runs a command; ``answers`` are (what is at the end of the screen, what is typed)."""
        began = time.monotonic()
        master = os.open(self.multiplexer, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
            screen = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
            os.fchown(screen, self.uid, -1)
            user = subprocess.Popen(
                [*self.login, self.profile + command],
                stdin=screen,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
                preexec_fn=partial(fcntl.ioctl, screen, termios.TIOCSCTTY, 0),
            )
            os.close(screen)
            try:
                shown, passwords = _watch(master, began + SECONDS, list(answers))
            finally:
                user.kill() if user.poll() is None else None
            code = user.wait()
        finally:
            os.close(master)
        text = shown.decode(errors="replace").replace("\r\n", "\n")
        return Done(code, text, time.monotonic() - began, passwords)


def _watch(master: int, deadline: float, answers: list[tuple[str, str]]) -> tuple[bytes, int]:
    """All that the terminal shows until the last process that has it is gone."""
    shown, passwords = b"", 0
    while select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            more = os.read(master, 65536)
        except OSError:  # EIO: nobody has the terminal any more
            return shown, passwords
        shown = _ESCAPES.sub(b"", shown + more)
        if _ASKED.search(shown):
            os.write(master, f"{PASSWORD}\n".encode())
            passwords += 1
        elif answers and re.search(answers[0][0].encode() + rb"\Z", shown):
            os.write(master, answers.pop(0)[1].encode())
    raise AssertionError(f"no end after {SECONDS:.0f} s: {shown.decode(errors='replace')}")
