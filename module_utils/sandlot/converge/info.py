# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Facts of sandboxes, read without a lock; a broken record stops nobody else."""

from __future__ import annotations

from typing import Any, Dict, Iterable

from .. import cgroups
from ..sandbox import facts, last_words, oom, record
from ..site import Site
from ..spec import stored
from . import report

Json = Dict[str, Any]


def info(site: Site, names: Iterable[str] | None = None) -> list[Json]:
    """Facts of the named sandboxes, of all when None; a name without a sandbox is left out."""
    records = record.load_all(site)
    layout = cgroups.detect()
    entries = []
    for name in sorted(records.names() if names is None else records.names() & set(names)):
        sandbox = site.sandbox(name)
        if name in records.broken:
            entries.append(facts.broken(sandbox, str(records.broken[name])))
            continue
        known = records.good[name]
        usage = cgroups.usage(site, name, layout)
        live = facts.of_runtime(sandbox, known.phase, known.wanted, usage)
        entry = {
            **report.facts(known),
            "wanted": known.wanted,
            **live,
            "health_output": last_words.last_output(sandbox) if live["health"] else None,
            "oom_kills": oom.total(sandbox, usage.oom_kills),
            "last_log": last_words.last_log(sandbox),
            "spec": stored.to_json(known.spec),
        }
        entries.append(entry)
    return entries
