# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Which differences from its record count for a sandbox, in docker_container's notation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Mapping, Sequence

from ..errors import SpecError
from . import option as rows
from .model import Spec
from .option import Option
from .options import OPTIONS, STORED
from .text import refusal

STRICT, IGNORE, ALLOW_MORE = "strict", "ignore", "allow_more_present"
ALL = "*"
_COMPARED = {row.name: row for row in STORED if row.name != "name"}


def check(comparisons: Mapping[str, str]) -> None:
    """Refuse names of options that are not compared, and comparisons that an option lacks."""
    for name, comparison in comparisons.items():
        if name not in _COMPARED and name != ALL:
            hint = 'use an option of a sandbox that its record has, or "*" for all others'
            raise refusal("comparisons", name, "is not compared", hint=hint)
        row = _COMPARED.get(name)
        if comparison == ALLOW_MORE and not (row and row.type in ("list", "dict")):
            hint = f"use {STRICT} or {IGNORE}; only lists and mappings can have more"
            raise refusal(f"comparisons.{name}", comparison, "is for no such option", hint=hint)


def ignores(spec: Spec, option: str) -> bool:
    return spec.comparisons.get(option, spec.comparisons.get(ALL)) == IGNORE


def compared(spec: Spec, recorded: Spec) -> Spec:
    """The spec with the recorded value of each option whose difference does not count."""
    if not spec.comparisons:
        return spec
    kept: Dict[str, Any] = {}
    usual = spec.comparisons.get(ALL, STRICT)
    for name, row in _COMPARED.items():
        comparison = spec.comparisons.get(name, usual)
        before, after = getattr(recorded, name), getattr(spec, name)
        if comparison == IGNORE or (comparison == ALLOW_MORE and _holds(row, before, after)):
            kept[name] = before
        elif comparison == ALLOW_MORE and name == "networks":
            # As docker_container, which leaves other networks connected.
            listed = {item.name for item in after}
            kept[name] = (*after, *(item for item in before if item.name not in listed))
    return _checked(
        replace(spec, **kept), [name for name in kept if kept[name] != getattr(spec, name)]
    )


def _checked(spec: Spec, kept: Sequence[str]) -> Spec:
    """The spec, in which options that are kept may contradict others."""
    try:
        rows.check(OPTIONS, spec)
    except SpecError as error:
        error.name(f"sandbox {spec.name!r}, which keeps {', '.join(kept)} by comparisons")
        raise
    return spec


def _holds(row: Option, before: Any, after: Any) -> bool:
    """Whether the recorded value has all of the other one."""
    return _covers(_listed(row.dump(before)), _listed(row.dump(after)))


def _listed(dumped: Any) -> Any:
    return () if dumped is None else dumped


def _covers(recorded: Any, asked: Any) -> bool:
    """Whether a value has each item of another one; mappings in a list may have more as well."""
    if isinstance(asked, Mapping) and isinstance(recorded, Mapping):
        return all(key in recorded and _covers(recorded[key], asked[key]) for key in asked)
    if isinstance(asked, (list, tuple)) and isinstance(recorded, (list, tuple)):
        return all(any(_covers(item, each) for item in recorded) for each in asked)
    return bool(recorded == asked)
