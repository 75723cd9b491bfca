# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot start, stop and restart."""

from __future__ import annotations

import argparse
from typing import Mapping

from .. import converge
from ..site import Site
from . import names, output


def run(site: Site, options: argparse.Namespace) -> int:
    for name in options.name:
        names.check(site, name)
    result = converge.lifecycle(site, list(dict.fromkeys(options.name)), options.command)
    if options.format == "json":
        output.print_json(list(result.results.values()))
    return report(result.failed)


def report(failed: Mapping[str, str]) -> int:
    for name, message in sorted(failed.items()):
        output.say(message if message.startswith(f"{name}:") else f"{name}: {message}")
    return 1 if failed else 0
