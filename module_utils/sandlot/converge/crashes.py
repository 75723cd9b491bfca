# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Adds to the result of a run which workloads ended by themselves."""

from __future__ import annotations

from dataclasses import replace

from .. import cgroups
from ..sandbox import crash
from ..sandbox.record import STARTED
from ..site import Site
from .report import Result
from .resolve import Request


def noted(site: Site, request: Request, done: Result) -> Result:
    """Watch the workloads that the run started, then look at all that are to run.

    The caller does not hold the lock. A crash is a warning, or with ``fail_on_crash`` a failure.
    """
    specs = {name: desired.wanted_spec for name, desired in request.desired.items()}
    wanted = {name for name in specs if done.sandboxes.get(name, {}).get("state") == STARTED}
    wanted -= set(done.failed)
    limits = {name: specs[name].fail_on_crash for name in wanted.intersection(done.started)}
    seconds = {n: request.watch if limit is None else limit for n, limit in limits.items()}
    crash.watch(site, {name: limit for name, limit in seconds.items() if limit})
    layout = cgroups.detect() if wanted else None
    failed, warnings = dict(done.failed), list(done.warnings)
    for name in sorted(wanted):
        end = crash.look(site, name, layout)
        if end is None:
            continue
        done.sandboxes[name]["crash"] = end.to_json()
        if specs[name].fail_on_crash is None:
            warnings.append(f"{name}: {end}")
        else:
            failed[name] = done.sandboxes[name]["failed"] = str(end)
    return replace(done, failed=failed, warnings=warnings)
