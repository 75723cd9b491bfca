# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Which differences from its record count for a sandbox, in docker_container's notation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping

from .model import Spec
from .option import Option
from .text import choice, mapping, refusal

STRICT, IGNORE, ALLOW_MORE = "strict", "ignore", "allow_more_present"
CHOICES = (STRICT, IGNORE, ALLOW_MORE)
ALL = "*"
_COLLECTIONS = ("list", "dict")


def parse(option: str, value: Any) -> Dict[str, str]:
    """The comparison of each named option; "*" is for the others."""
    # The table has a row with this function.
    from .options import BY_NAME

    known = {name: row for name, row in BY_NAME.items() if row.change and name != "name"}
    pairs = mapping(option, value, hint="use `option: ignore`")
    for name, comparison in pairs.items():
        path = f"{option}.{name}" if name in known else option
        if name not in known and name != ALL:
            hint = 'use an option of a sandbox that its record has, or "*" for all others'
            raise refusal(path, name, "is not compared", hint=hint)
        choice(path, comparison, choices=CHOICES)
        if comparison == ALLOW_MORE and (name == ALL or known[name].type not in _COLLECTIONS):
            hint = f"use {STRICT} or {IGNORE}; only lists and mappings can have more"
            raise refusal(path, comparison, "is for no such option", hint=hint)
    return pairs


def ignores(spec: Spec, option: str) -> bool:
    return spec.comparisons.get(option, spec.comparisons.get(ALL)) == IGNORE


def compared(spec: Spec, recorded: Spec) -> Spec:
    """The spec with the recorded value of each option whose difference does not count."""
    if not spec.comparisons:
        return spec
    from .options import STORED

    kept: Dict[str, Any] = {}
    usual = spec.comparisons.get(ALL, STRICT)
    for row in STORED:
        comparison = spec.comparisons.get(row.name, usual)
        if row.name != "name" and comparison != STRICT:
            before, after = getattr(recorded, row.name), getattr(spec, row.name)
            if comparison == IGNORE or _holds(row, before, after):
                kept[row.name] = before
    return replace(spec, **kept)


def _holds(row: Option, before: Any, after: Any) -> bool:
    """Whether the recorded value has all of the other one."""
    there, asked = _items(row.dump(before)), _items(row.dump(after))
    return all(item in there for item in asked)


def _items(dumped: Any) -> List[Any]:
    return list(dumped.items() if isinstance(dumped, Mapping) else dumped or ())
