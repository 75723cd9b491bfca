# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs work in a forked child, which reports over a pipe and is always reaped.

Imported by the launcher: imports as little as possible.
"""

from __future__ import annotations

import errno
import os
import select

from .files import write_all
from .signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn, Optional, Tuple

    Watch = Optional[Callable[[], None]]

# The limit for one step of a start, which usually takes a millisecond; a host may be swapping.
STEP_SECONDS = 60.0
_INTERVAL = 0.5
_READ_SIZE = 1 << 16


def call(work: Callable[[int], bytes], watch: Watch = None) -> Tuple[bytes, int]:
    """Run ``work`` in a child; its result (b"" when it ended early), and the exit status.

    ``work`` gets the descriptor of its report and must not close it. Meanwhile, ``watch`` is called
    now and then.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _work(work, writer)
    os.close(writer)
    complete = False
    try:
        report = _read(reader, watch)
        complete = True
    finally:
        os.close(reader)
        if not complete:
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    return report, status


def _work(work: Callable[[int], bytes], writer: int) -> NoReturn:
    status = 1
    try:
        write_all(writer, work(writer))
        status = 0
    finally:
        # Whatever happens, this process must not return into the code of its parent.
        os._exit(status)


def _read(reader: int, watch: Watch) -> bytes:
    chunks = [b""]
    while True:
        while watch and not _readable(reader, _INTERVAL):
            watch()
        chunk = os.read(reader, _READ_SIZE)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _readable(fd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


class Held:
    """A child that calls ``prepare`` and then keeps its namespaces until the block ends."""

    def __init__(self, prepare: Callable[[], None], what: str) -> None:
        """``what`` names the work in errors."""
        self._prepare = prepare
        self._what = what

    def __enter__(self) -> int:
        """Return the child's pid; OSError when ``prepare`` failed or took too long."""
        reader, writer = os.pipe()
        wait, self._end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._end)
            self._hold(writer, wait)
        os.close(writer)
        os.close(wait)
        try:
            if not _readable(reader, STEP_SECONDS):
                os.kill(self._pid, signal.SIGKILL)
                raise OSError(errno.ETIMEDOUT, f"{self._what} took over {STEP_SECONDS:.0f} seconds")
            code, dummy, text = (
                os.read(reader, _READ_SIZE).decode("utf-8", "replace").partition(" ")
            )
            if code != "0":
                raise OSError(int(code or errno.ECHILD), text or f"{self._what}: its process died")
        except OSError:
            self.__exit__()
            raise
        finally:
            os.close(reader)
        return self._pid

    def _hold(self, writer: int, wait: int) -> NoReturn:
        try:
            report = "0"
            try:
                self._prepare()
            except OSError as error:
                report = f"{error.errno or errno.EIO} {error.strerror or error}"
            os.write(writer, report.encode())
            os.read(wait, 1)  # the end of the block, or of the parent
        finally:
            os._exit(0)

    def __exit__(self, *_error: object) -> None:
        os.close(self._end)
        os.waitpid(self._pid, 0)
