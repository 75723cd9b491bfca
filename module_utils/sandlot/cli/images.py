# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot images and prune: lists images with their users and progress; removes unused ones."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, Dict, List

from .. import images
from ..errors import SandlotError
from ..images import progress, records
from ..mask import Mask
from ..plan import apply_all, descriptions
from ..site import Site
from . import output
from .progress import Watcher, line, with_pace

HEADS = ("NAME", "SOURCE", "SIZE", "DIGEST", "LAYERS", "USED-BY", "AGE")
_RIGHT = ("SIZE", "LAYERS", "AGE")
_SHORT = 12
_SHOWN_USERS = 3


def run(site: Site, options: argparse.Namespace) -> int:
    if options.action == "prune":
        operations = images.prune_operations(site, unused=options.all)
        done = descriptions(operations)
        apply_all(operations)
        as_json = json.dumps({"changed": bool(done), "actions": done})
        text = as_json if options.format == "json" else "\n".join(done or ["nothing to remove"])
        sys.stdout.write(f"{text}\n")
        return 0
    if options.all:
        raise SandlotError("--all goes with prune", hint="write sandlot images prune --all")
    if options.watch:
        Watcher(site, as_json=options.format == "json").run()
        return 0
    entries = _all(site)
    if options.format == "json":
        output.print_json(entries)
        return 0
    sys.stdout.write(output.table(HEADS, [_row(entry) for entry in entries], right=_RIGHT))
    for entry in entries:
        if entry["progress"]:
            sys.stdout.write(line(entry["progress"]) + "\n")
    return 0


def _all(site: Site) -> List[Dict[str, Any]]:
    """Images by name; an image that is built for the first time has only its progress."""
    known, making = images.observe(site), progress.observe(site)
    users: Dict[str, List[str]] = {}
    for use in records.uses(site):
        users.setdefault(use.image, []).append(use.sandbox)
    entries, mask = [], Mask(site)
    for name in sorted({*known, *making}):
        about = images.facts(site, known[name], mask) if name in known else {"name": name}
        entries.append(
            {
                **about,
                "used_by": users.get(name, []),
                "progress": with_pace(making[name]) if name in making else None,
            }
        )
    return entries


def _row(entry: Dict[str, Any]) -> List[str]:
    if "digest" not in entry:
        return [entry["name"], *[output.NOTHING] * (len(HEADS) - 1)]
    made, users = entry["made"], ",".join(entry["used_by"][:_SHOWN_USERS])
    more = len(entry["used_by"]) - _SHOWN_USERS
    return [
        entry["name"],
        entry["source"],
        output.size(entry["size"]) if made else output.NOTHING,
        entry["digest"][:_SHORT] or output.NOTHING,
        str(len(entry["layers"])),
        f"{users} and {more} more" if more > 0 else users or output.NOTHING,
        output.span(max(time.time() - made, 0)) if made else output.NOTHING,
    ]
