# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot volumes: lists volumes with their sizes and users."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Dict, List

from ..converge import holdings
from ..site import Site
from . import output

HEADS = ("NAME", "SIZE", "USED", "USED-BY", "AGE")
_RIGHT = ("SIZE", "USED", "AGE")
_SHOWN_USERS = 3


def run(site: Site, options: argparse.Namespace) -> int:
    entries = holdings.volumes_info(site)
    broken = [entry for entry in entries if "error" in entry]
    if options.format == "json":
        output.print_json(entries)
    else:
        rows = [_row(entry) for entry in entries if entry not in broken]
        sys.stdout.write(output.table(HEADS, rows, right=_RIGHT))
    for entry in broken:
        output.say(f"volume {entry['name']}: {entry['error']}")
    return 1 if broken else 0


def _row(entry: Dict[str, Any]) -> List[str]:
    users = ",".join(entry["used_by"][:_SHOWN_USERS])
    more = len(entry["used_by"]) - _SHOWN_USERS
    return [
        entry["name"],
        output.size(entry["size"]),
        f"{'>' if entry['more'] else ''}{output.size(entry['used'])}",
        f"{users} and {more} more" if more > 0 else users or output.NOTHING,
        output.span(max(time.time() - entry["created"], 0)),
    ]
