# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot refresh: by the launcher when it is due, by hand or by cron whenever one likes."""

from __future__ import annotations

import argparse

from .. import converge
from ..site import Site
from . import output


def run(site: Site, options: argparse.Namespace) -> int:
    actions = converge.refresh(site)
    if options.format == "json":
        output.print_json({"actions": actions})
    else:
        print("".join(f"{action}\n" for action in actions), end="")
    return 0
