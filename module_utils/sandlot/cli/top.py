# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot top: what sandboxes use, once."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List

from .. import cgroups
from ..sandbox import runtime
from ..site import Site
from . import names, output

HEADS = ("NAME", "PIDS", "MEMORY", "CPU-TIME", "OOM-KILLS")


def run(site: Site, options: argparse.Namespace) -> int:
    wanted = [names.check(site, name) for name in options.name] or names.known(site)
    layout = cgroups.detect()
    found = [
        {"name": name, **vars(cgroups.usage(site, name, layout))}
        for name in wanted
        if runtime.running(site.sandbox(name))
    ]
    if options.format == "json":
        output.print_json(found)
    else:
        found.sort(key=lambda each: each["cpu_seconds"] or 0, reverse=True)
        sys.stdout.write(output.table(HEADS, [_row(each) for each in found], right=HEADS[1:]))
    return 0


def _row(each: Dict[str, Any]) -> List[str]:
    return [
        each["name"],
        _number(each["pids"]),
        output.size(each["memory"]),
        output.span(each["cpu_seconds"]),
        _number(each["oom_kills"]),
    ]


def _number(value: Any) -> str:
    return output.NOTHING if value is None else str(value)
