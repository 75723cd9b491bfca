# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Whether sandboxes that were just started do well: healthy, or at least not failing at once."""

from __future__ import annotations

import select
import time
from typing import Dict, Iterable, Mapping

from .. import store
from ..kernel.inotify import Watch
from ..site import Site
from . import health, runtime

# A workload without a healthcheck must not fail within this time.
STEADY_SECONDS = 1.0


def problems(site: Site, limits: Mapping[str, float | None]) -> Dict[str, str]:
    """What is wrong, by name; {} when all do well.

    ``limits`` are most seconds for a healthcheck, None for as long as it needs for a verdict.
    """
    now = time.monotonic()
    checks = {n: (store.read(site.sandbox(n).launch) or {}).get("healthcheck") for n in limits}
    deadlines = {
        name: now + (limits[name] or health.patience(check))
        for name, check in checks.items()
        if check
    }
    waited = health.wait_each(site, deadlines)
    # Whose log it was is told apart elsewhere.
    found = {name: error.message.partition("; its log")[0] for name, error in waited.items()}
    others = [name for name in checks if name not in deadlines]
    return {**found, **_fallen(site, others, now + STEADY_SECONDS)}


def _fallen(site: Site, names: Iterable[str], deadline: float) -> Dict[str, str]:
    """Those that fail before the deadline."""
    pending = set(names)
    found: Dict[str, str] = {}
    with Watch(*(site.sandbox(name).run for name in pending)) as watch:
        poller = select.poll()
        poller.register(watch.fd, select.POLLIN)
        while pending:
            watch.clear()
            found.update((name, text) for name in pending if (text := _fall(site, name)))
            pending -= set(found)
            left = deadline - time.monotonic()
            if left <= 0:
                break
            poller.poll(left * 1000 + 1)
    return found


def _fall(site: Site, name: str) -> str:
    """A workload may have done its work and ended; its init may not have gone without a word."""
    alive = runtime.running(site.sandbox(name)) is not None
    status = runtime.status(site.sandbox(name))
    if status.get("exit_code"):
        return f"{name} ended with exit code {status['exit_code']} at once"
    return "" if alive or status.get("final") else f"the init of {name} crashed"
