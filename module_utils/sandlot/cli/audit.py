# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot audit."""

from __future__ import annotations

import argparse
import sys

from .. import audit
from ..sandbox import names
from ..site import Site
from . import output

HEADS = ("SANDBOX", "ASPECT", "EXPECTED", "FOUND")


def run(site: Site, options: argparse.Namespace) -> int:
    for name in options.name:
        names.check(site, name)
    seen = audit.audit(site, options.name or None)
    if options.format == "json":
        output.print_json(seen)
    elif seen["findings"]:
        rows = [
            [entry["sandbox"] or output.NOTHING, *map(entry.get, ("aspect", "expected", "actual"))]
            for entry in seen["findings"]
        ]
        sys.stdout.write(output.table(HEADS, rows))
    return 1 if seen["findings"] else 0
