# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Waits for what the inits of sandboxes write, for many at once; nothing polls."""

from __future__ import annotations

import contextlib
import select
import time
from typing import Callable, Mapping, Optional

from ..kernel.inotify import Watch
from ..site import Site

# Returns the time (of time.monotonic) of the next look if nothing changes, None for no further one.
Look = Callable[[], Optional[float]]


def wait_each(site: Site, looks: Mapping[str, Look]) -> None:
    """Look at each sandbox now and after each change of its runtime files, until all are done."""
    pending = dict(looks)
    with Watch() as events:
        for name in pending:
            # Each look notices that a sandbox is gone, and its time is bounded.
            with contextlib.suppress(FileNotFoundError):
                events.add(site.sandbox(name).run)
        poller = select.poll()
        poller.register(events.fd, select.POLLIN)
        while pending:
            # Before the looks, so that no change is lost between the two.
            events.clear()
            due = {name: look() for name, look in pending.items()}
            times = [moment for moment in due.values() if moment is not None]
            pending = {name: look for name, look in pending.items() if due[name] is not None}
            if times:
                poller.poll(max(0.0, min(times) - time.monotonic()) * 1000 + 1)
