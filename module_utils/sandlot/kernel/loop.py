# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One poll loop: handlers of descriptors, timers by name. Without a timer it never wakes up."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Optional, Tuple

    Handler = Callable[[], object]


class Loop:
    def __init__(self) -> None:
        self._poller = select.poll()
        self._handlers: Dict[int, Handler] = {}
        self._timers: Dict[str, Tuple[float, Handler]] = {}

    def watch(self, fd: int, handler: Handler, events: int = select.POLLIN) -> None:
        self._handlers[fd] = handler
        self._poller.register(fd, events)

    def unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poller.unregister(fd)

    def after(self, timer: str, seconds: float, action: Handler) -> None:
        """Call ``action`` later; a second call for the same name replaces the first."""
        self._timers[timer] = (time.monotonic() + seconds, action)

    def cancel(self, timer: str) -> None:
        self._timers.pop(timer, None)

    def turn(self, seconds: Optional[float] = None) -> None:
        """Wait, at most ``seconds``, for events and timers, and handle them."""
        now = time.monotonic()
        waits = [due - now for due, dummy in self._timers.values()]
        waits += [] if seconds is None else [seconds]
        limit = max(0, int(min(waits) * 1000) + 1) if waits else None
        for fd, dummy in self._poller.poll(limit):
            # An earlier handler of this turn may have removed this one.
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        now = time.monotonic()
        for name, timer in list(self._timers.items()):
            # An earlier timer may have removed this one.
            if timer[0] <= now and self._timers.get(name) is timer:
                del self._timers[name]
                timer[1]()
