# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot inspect."""

from __future__ import annotations

import argparse
from typing import Any, Iterator

from .. import converge
from ..sandbox import names
from ..site import Site
from . import listing, output


def run(site: Site, options: argparse.Namespace) -> int:
    for name in options.name:
        names.check(site, name)
    facts = {each["name"]: each for each in converge.info(site, options.name)}
    asked = [facts[name] for name in dict.fromkeys(options.name) if name in facts]
    if options.format == "json":
        output.print_json(asked)
    else:
        print("\n\n".join("\n".join(_lines(each)) for each in asked))
    return listing.warn(asked)


def _lines(value: Any) -> Iterator[str]:
    """Mappings and lists indented, one value a line."""
    if isinstance(value, list):
        for each in value:
            for index, line in enumerate(_lines(each)):
                yield f"  {line}" if index else f"- {line}"
    elif isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, (dict, list)) and each:
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(each))
            else:
                yield f"{key}: {_scalar(each)}"
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return output.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if text.isprintable() and text else repr(text)
