# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One poll loop: handlers of descriptors, timers by name. Without a timer it never wakes up."""

from __future__ import annotations

import errno
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Tuple

    Handler = Callable[[], object]
    # Its name, when it is due, the name of the method that it calls.
    Timer = Tuple[str, float, str]


class Loop:
    def __init__(self) -> None:
        self._poller = select.poll()
        self._handlers: Dict[int, Tuple[Handler, int]] = {}
        self._timers: Dict[str, Tuple[float, Handler]] = {}

    def watch(self, fd: int, handler: Handler, events: int = select.POLLIN) -> None:
        self._handlers[fd] = (handler, events)
        self._poller.register(fd, events)

    def unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poller.unregister(fd)

    def after(self, timer: str, seconds: float, action: Handler) -> None:
        """Call ``action`` later; a second call for the same name replaces the first."""
        self.at(timer, time.monotonic() + seconds, action)

    def at(self, timer: str, due: float, action: Handler) -> None:
        """Call ``action`` at a time of the monotonic clock, which all processes share."""
        self._timers[timer] = (due, action)

    def cancel(self, timer: str) -> None:
        self._timers.pop(timer, None)

    @property
    def timers(self) -> List[Timer]:
        return [(name, due, call.__name__) for name, (due, call) in self._timers.items()]

    def turn(self, seconds: Optional[float] = None) -> bool:
        """Wait, at most ``seconds``, for events and timers, and handle them; whether one came."""
        now = time.monotonic()
        waits = [due - now for due, dummy in self._timers.values()]
        waits += [] if seconds is None else [seconds]
        limit = max(0, int(min(waits) * 1000) + 1) if waits else None
        ready = self._wait(limit)
        acted = bool(ready)
        for fd in ready:
            # An earlier handler of this turn may have removed this one.
            if fd in self._handlers:
                self._handlers[fd][0]()
        now = time.monotonic()
        for name, timer in list(self._timers.items()):
            # An earlier timer may have removed this one.
            if timer[0] <= now and self._timers.get(name) is timer:
                acted = True
                timer[1]()
                # Until here, as it is still due if its action has raised an error.
                if self._timers.get(name) is timer:
                    del self._timers[name]
        return acted

    def _wait(self, milliseconds: Optional[int]) -> List[int]:
        """Descriptors with an event."""
        try:
            return [fd for fd, dummy in self._poller.poll(milliseconds)]
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # poll(2) takes no more descriptors than RLIMIT_NOFILE, which a tenant may set for init;
        # select(2) does.
        wanted = [(fd, events) for fd, (dummy, events) in self._handlers.items()]
        read = [fd for fd, events in wanted if events & select.POLLIN]
        write = [fd for fd, events in wanted if events & select.POLLOUT]
        seconds = None if milliseconds is None else milliseconds / 1000
        readable, writable, dummy = select.select(read, write, [], seconds)
        return [*readable, *writable]
