# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Signals that are due to a workload whose files or secrets have changed.

A mark keeps them from before the change until they are sent, over a killed run. A start removes the
mark, as the workload has read what is there.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Collection, Mapping, Set, Tuple

from .. import store
from ..errors import StateError
from ..kernel.signals import signal
from ..site import SandboxPaths, Site
from ..spec.quantities import signal_name
from . import runtime, waiting
from .crash import Crash


@dataclass(frozen=True)
class _Run:
    """One run of a workload, which ends when its process does."""

    init: int
    since: float


@dataclass(frozen=True)
class Signalled:
    """A workload that got signals at a ``moment`` of the monotonic clock."""

    run: _Run
    signals: Tuple[int, ...]
    moment: float


def marked(sandbox: SandboxPaths) -> Tuple[int, ...]:
    try:
        data = store.read(sandbox.reload)
    except StateError:
        return ()
    return () if data is None else tuple(int(number) for number in data["signals"])


def mark(sandbox: SandboxPaths, signals: Collection[int]) -> None:
    store.write(sandbox.reload, {"signals": sorted(signals)}, durable=False)


def send(sandbox: SandboxPaths, signals: Collection[int]) -> Signalled | None:
    """Signal the workload; None without one: the next run of it reads what is there.

    Init forwards what it gets from outside, also the init of an earlier version.
    """
    pidfd = runtime.open_init(sandbox)
    if pidfd is None:
        return None
    try:
        run = _current(sandbox)
        if run is not None:
            for number in signals:
                signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        run = None
    finally:
        os.close(pidfd)
    store.unlink(sandbox.reload)
    return Signalled(run, tuple(signals), time.monotonic()) if run else None


def _current(sandbox: SandboxPaths) -> _Run | None:
    """The present run of the workload, None between two and before the first."""
    init, status = runtime.running(sandbox), runtime.status(sandbox)
    if init is None or status.get("state") != "running":
        return None
    return _Run(init.start_time, float(status.get("since", init.since)))


# -- workloads that a signal ends


def lost(site: Site, signalled: Mapping[str, Signalled], limits: Mapping[str, float]) -> Set[str]:
    """Sandboxes whose workload ends within its limit, in seconds after the signal."""
    ended: Set[str] = set()

    def look(name: str) -> float | None:
        if _current(site.sandbox(name)) != signalled[name].run:
            ended.add(name)
            return None
        due = signalled[name].moment + limits[name]
        return due if due > time.monotonic() else None

    waiting.wait_each(site, {name: partial(look, name) for name in limits})
    return ended


def explained(end: Crash, signals: Collection[int]) -> Crash:
    """The crash, with its remedy when a signal of ours was the end."""
    if end.signal is None or end.signal not in signals:
        return end
    remedy = (
        f"it has no handler for {signal_name(end.signal)}, by which on_change: reload asked it to "
        "reload: set reload_signal to the one it knows, or on_change to restart"
    )
    return replace(end, remedy=remedy)
