# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies between descriptors with bounded buffers; a slow writer never blocks a reader."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import termios
from typing import Callable, Dict, List, Optional

CHUNK = 65536
# Control-D, which means end of file to a reader of lines.
END_OF_TRANSMISSION = b"\x04"


def waiting(fd: int) -> int:
    """How many bytes a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


class Pump:
    """Copies ``source`` to ``target``; neither should block.

    The pump closes a descriptor that it owns when its other one has ended, so that the peer sees
    the end. It writes ``farewell`` at the end, to targets whose closing tells nothing.
    """

    def __init__(
        self,
        source: int,
        target: int,
        *,
        owns_source: bool = False,
        owns_target: bool = False,
        farewell: bytes = b"",
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self.source: Optional[int] = source
        self._descriptor = source
        self.target = target
        self.done = False
        # Bytes that were read.
        self.taken = 0
        # Why the target takes no more.
        self.error: Optional[OSError] = None
        self._write_to = write
        self._pending = b""
        self._owns = (owns_source, owns_target)
        self._farewell = farewell

    def wanted(self) -> Optional[tuple[int, int]]:
        """(descriptor, poll event) that the pump waits for; None when it is done."""
        if self.done:
            return None
        if self._pending:
            return self.target, select.POLLOUT
        return (self.source, select.POLLIN) if self.source is not None else None

    def step(self) -> bool:
        """Copy without waiting; whether any byte was copied."""
        if self.done:
            return False
        if self._pending:
            return self._write()
        if self.source is None:
            return False
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # EIO: the other end of a pty is closed, or the terminal hung up
        if data:
            self.taken += len(data)
            self._pending = data
            return self._write()
        self.source = None
        self._pending, self._farewell = self._farewell, b""
        if not self._pending:
            self.finish()
        return True

    def _write(self) -> bool:
        try:
            written = self._write_to(self.target, self._pending)
        except BlockingIOError:
            return False
        except OSError as error:
            self.error = error  # nobody reads any more, or a disk is full
            self.finish()
            return True
        self._pending = self._pending[written:]
        if not self._pending and self.source is None:
            self.finish()
        return True

    @property
    def unwritten(self) -> int:
        """How many bytes were read and not written."""
        return len(self._pending)

    def finish(self) -> None:
        """Stop, and close the descriptors that the pump owns."""
        if self.done:
            return
        self.done = True
        for fd, owned in zip((self._descriptor, self.target), self._owns):
            if owned:
                os.close(fd)


class Limit:
    """Counts what several pumps write; beyond ``most`` bytes, they end as if nobody read."""

    def __init__(self, most: int) -> None:
        self.most = self._left = most
        self.exceeded = False

    def counting(self, write: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
        def counted(fd: int, data: bytes) -> int:
            if not self._left:
                self.exceeded = True
                raise BrokenPipeError(errno.EPIPE, "too much output")
            written = write(fd, data[: self._left])
            self._left -= written
            return written

        return counted


class Loop:
    """Runs pumps, and handlers of other descriptors, in one poll loop."""

    def __init__(self) -> None:
        self.pumps: List[Pump] = []
        self.handlers: Dict[int, Callable[[], None]] = {}

    def turn(self, timeout: Optional[float] = None) -> bool:
        """Wait for one event and serve it; False when the time ran out first."""
        events = self._poll(self._waiting(self.pumps), list(self.handlers), timeout)
        for pump in self.pumps:
            wanted = pump.wanted()
            if wanted and wanted[0] in events:
                pump.step()
        self._handle(events)
        return bool(events)

    def _handle(self, events: List[int]) -> None:
        for fd in events:
            handler = self.handlers.get(fd)
            if handler is not None:
                handler()

    def drain(self, pump: Pump, most: int, *, patience: float = 0.0) -> None:
        """Copy the rest of a source; stop at its end, or when it has been silent for a while.

        Others may go on to fill it, so about ``most`` bytes are taken of it. Handlers are served
        meanwhile, as the target may take nothing for hours.
        """
        end = pump.taken + most
        while pump.taken < end or pump.unwritten:
            if pump.step():
                continue
            wanted = pump.wanted()
            if wanted is None:
                return
            limit = None if wanted[1] == select.POLLOUT else patience
            events = self._poll(self._waiting([pump]), list(self.handlers), limit)
            if not events:
                return
            self._handle(events)

    @staticmethod
    def _waiting(pumps: List[Pump]) -> Dict[int, int]:
        wanted: Dict[int, int] = {}
        for fd, event in filter(None, (pump.wanted() for pump in pumps)):
            wanted[fd] = wanted.get(fd, 0) | event
        return wanted

    @staticmethod
    def _poll(wanted: Dict[int, int], readable: List[int], timeout: Optional[float]) -> List[int]:
        poller = select.poll()
        for fd, event in wanted.items():
            poller.register(fd, event)
        for fd in readable:
            poller.register(fd, wanted.get(fd, 0) | select.POLLIN)
        return [fd for fd, dummy in poller.poll(None if timeout is None else timeout * 1000)]
