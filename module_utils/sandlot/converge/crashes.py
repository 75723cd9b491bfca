# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Adds to the result of a run which workloads ended by themselves, and which are unhealthy."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Iterable, Mapping

from .. import cgroups
from ..sandbox import crash, health, reloading
from ..sandbox.record import STARTED
from ..site import Site
from ..spec import Spec
from .report import Result
from .resolve import Request


def noted(site: Site, request: Request, done: Result, *, boots: bool = False) -> Result:
    """Wait for what is to be healthy, watch what was started or signalled, look at all that runs.

    The caller does not hold the lock, so that a slow sandbox can be stopped meanwhile. A crash is a
    failure, or a warning of a sandbox that is not to be watched or whose workload runs again for a
    while. A sandbox that is unhealthy and need not be healthy is a warning. A run that ``boots``
    the host waits for no healthcheck and only warns.
    """
    asked = {
        name: desired
        for name, desired in request.desired.items()
        if done.sandboxes.get(name, {}).get("state") == STARTED and name not in done.failed
    }
    specs = {name: desired.wanted_spec for name, desired in asked.items()}
    fresh = asked.keys() & set(done.started)
    seconds = {name: seconds_to_watch(spec, request.watch) for name, spec in specs.items()}
    watched = {name: seconds[name] for name in fresh if seconds[name]}
    by_check = [] if boots else _with_check(site, specs, watched)
    healthy = [name for name, desired in asked.items() if desired.healthy]
    limits = {name: specs[name].healthy_wait_timeout for name in (*healthy, *by_check)}
    problems = health.wait_each(site, health.deadlines(site, limits), watched) if limits else {}
    crash.watch(site, {name: watched[name] for name in watched if name not in by_check})
    signalled = {n: sent for n, sent in done.reloaded.items() if n in asked and n not in fresh}
    afterwards = {name: seconds[name] for name in signalled if seconds[name]}
    lost = reloading.lost(site, signalled, afterwards)
    layout = functools.lru_cache(maxsize=None)(cgroups.detect)
    failed, warnings = dict(done.failed), list(done.warnings)
    for name in sorted(asked):
        end = crash.look(site, name, layout, fresh=name in fresh or name in lost)
        if end and name in lost:
            end = reloading.explained(end, signalled[name].signals)
        if end:
            done.sandboxes[name]["crash"] = end.to_json()
        problem = f"{name}: {end}" if end else str(problems.get(name, ""))
        problem = problem or health.complaint(site, name)
        spared = (
            boots
            or not seconds[name]
            or (end and end.recovered and name not in fresh and name not in lost)
        )
        if (name in healthy and name in problems) or (end and not spared):
            failed[name] = done.sandboxes[name]["failed"] = end.text() if end else problem
        elif problem:
            warnings.append(problem)
    return replace(done, failed=failed, warnings=warnings)


def _with_check(site: Site, specs: Mapping[str, Spec], names: Iterable[str]) -> list[str]:
    """Sandboxes that are watched until their healthcheck is decided."""
    return [n for n in names if specs[n].fail_on_crash is None and health.launched(site, n)]


def seconds_to_watch(spec: Spec, default: float) -> float:
    return default if spec.fail_on_crash is None else spec.fail_on_crash
