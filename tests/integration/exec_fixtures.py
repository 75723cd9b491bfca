# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The command sandlot as a process, and the terminal of its user."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios

from converge_fixtures import Deployment
from sandboxes import ENGINE, Host

CODE = f"import sys; sys.path.insert(0, {str(ENGINE.parent)!r}); from sandlot.cli import main; "
COMMAND = [sys.executable, "-I", "-c", CODE + "sys.exit(main())"]
SIZE = struct.Struct("HHHH")


def environment(host: Host | Deployment) -> dict[str, str]:
    return {**os.environ, "SANDLOT_ROOT": host.paths.root}


class Terminal:
    """What a user sits at: a pty with a size, and a command with it as its controlling terminal."""

    def __init__(self, rows: int = 33, columns: int = 101) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.settings = termios.tcgetattr(self.slave)
        self.seen = b""
        self.expected = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()
        os.close(self.slave)

    def hang_up(self) -> None:
        """Close the end of whoever sits there, as a lost connection does."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def stop(self) -> None:
        """Suspend output, as control-S does."""
        termios.tcflow(self.slave, termios.TCOOFF)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, SIZE.pack(rows, columns, 0, 0))

    def run(self, host: Host, *words: str) -> subprocess.Popen[bytes]:
        def take() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment(host),
            start_new_session=True,
            preexec_fn=take,
        )
        return self.process

    def type(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.master, data) :]

    def expect(self, text: bytes) -> None:
        """Wait for more output with ``text`` in it."""
        while text not in self.seen[self.expected :]:
            assert select.select([self.master], [], [], 20)[0], self.seen
            self.seen += os.read(self.master, 65536)
        self.expected = self.seen.index(text, self.expected) + len(text)

    def finish(self) -> int:
        """The exit code; all that was shown is in ``seen`` then."""
        assert self.process
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while pidfd not in (ready := select.select([self.master, pidfd], [], [], 20)[0]):
                assert ready, self.seen
                self.seen += os.read(self.master, 65536)
            while select.select([self.master], [], [], 0)[0]:
                self.seen += os.read(self.master, 65536)
        finally:
            os.close(pidfd)
        assert termios.tcgetattr(self.slave) == self.settings
        return self.process.wait(20)
