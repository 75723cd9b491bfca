# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Jobs: sandboxes whose workload ends by itself, and has succeeded with exit code 0."""

from __future__ import annotations

import time
from functools import partial
from typing import Dict, Mapping

from ..site import Site
from . import health, runtime, waiting
from .health import LONGEST, Unhealthy


def wait_each(site: Site, limits: Mapping[str, float | None]) -> Dict[str, Unhealthy]:
    """Wait until jobs have succeeded; failures of those that do not.

    ``limits`` are the most seconds, None for an hour.
    """
    now = time.monotonic()
    problems: Dict[str, str] = {}
    looks = {
        name: partial(_look, site, name, now + (limit or LONGEST), problems)
        for name, limit in limits.items()
    }
    waiting.wait_each(site, looks)
    return {name: health.failure(site, name, problem) for name, problem in problems.items()}


def _look(site: Site, name: str, deadline: float, problems: Dict[str, str]) -> float | None:
    sandbox = site.sandbox(name)
    # Look at init first: the status of a dead init is older than its death.
    running = runtime.running(sandbox)
    status = runtime.status(sandbox)
    if runtime.succeeded(sandbox) is not None:
        return None
    if status.get("final") or status.get("state") == "crash-loop":
        problems[name] = health.described_end(status)
    elif running is None and not status:
        problems[name] = "does not run"
    elif time.monotonic() >= deadline:
        problems[name] = "has not ended in time"
    return None if name in problems else deadline
