# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot inspect."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Iterator

from .. import converge
from ..sandbox import names
from ..site import Site
from . import listing, output


def run(site: Site, options: argparse.Namespace) -> int:
    for name in options.name:
        names.check(site, name)
    facts = {
        entry["name"]: entry
        for entry in converge.info(site, options.name, show_env=options.show_env)
    }
    asked = [facts[name] for name in dict.fromkeys(options.name) if name in facts]
    if options.format == "json":
        output.print_json(asked)
    else:
        sys.stdout.write("\n\n".join("\n".join(_lines(entry)) for entry in asked) + "\n")
    return listing.warn(asked)


def _lines(value: Any) -> Iterator[str]:
    """Lines with one value each; mappings and lists are indented."""
    if isinstance(value, list):
        for entry in value:
            for index, line in enumerate(_lines(entry)):
                yield f"  {line}" if index else f"- {line}"
    elif isinstance(value, dict):
        for key, entry in value.items():
            if isinstance(entry, (dict, list)) and entry:
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(entry))
            else:
                yield f"{key}: {_scalar(entry)}"
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return output.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if text.isprintable() and text else repr(text)
