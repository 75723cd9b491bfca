# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot start, stop, restart, rm, repair and refresh."""

from __future__ import annotations

import argparse
from typing import Mapping

from .. import converge
from ..errors import named
from ..sandbox import names
from ..site import Site
from . import output


def change(site: Site, options: argparse.Namespace) -> int:
    for name in options.name:
        names.check(site, name)
    given = list(dict.fromkeys(options.name))
    result = converge.lifecycle(site, given, options.command, watch=converge.WATCH)
    if options.format == "json":
        output.print_json(list(result.sandboxes.values()))
    for warning in result.warnings:
        output.say(warning)
    return report(result.failed)


def remove(site: Site, options: argparse.Namespace) -> int:
    given = [names.check(site, name) for name in dict.fromkeys(options.name)]
    result = converge.remove_kept(site, given, force=options.force)
    output.print_actions(result.actions, options.format, changed=result.changed)
    for line in converge.kept_layers(result):
        output.say(line)
    return report(result.failed)


def repair(site: Site, options: argparse.Namespace) -> int:
    result = converge.repair(site, check=options.check)
    output.print_actions(result.actions, options.format, changed=result.changed)
    return report(result.failed)


def refresh(site: Site, options: argparse.Namespace) -> int:
    output.print_actions(converge.refresh(site), options.format)
    return 0


def report(failed: Mapping[str, str]) -> int:
    for name, message in sorted(failed.items()):
        output.say(named(name, message))
    return 1 if failed else 0
