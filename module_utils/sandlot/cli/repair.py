# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot repair: the network of this host's sandboxes as they were deployed."""

from __future__ import annotations

import argparse

from .. import converge
from ..site import Site
from . import output
from .lifecycle import report


def run(site: Site, options: argparse.Namespace) -> int:
    result = converge.repair(site, check=options.check)
    if options.format == "json":
        output.print_json({"changed": result.changed, "actions": result.actions})
    else:
        print("".join(f"{action}\n" for action in result.actions), end="")
    return report(result.failed)
