# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The differences between two specs, per option and with their cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable

from ..plan import Change
from .model import Spec
from .option import Option
from .options import BY_NAME, STORED
from .stored import from_table


@dataclass(frozen=True)
class Difference:
    """One option; ``before`` and ``after`` in the user's notation, None for nothing."""

    option: str
    before: Any
    after: Any
    change: Change

    @property
    def title(self) -> str:
        return f"{self.option} ({self.change.value})"


def differences(before: Spec | None, after: Spec) -> list[Difference]:
    """Differences in the order of the table; for a new sandbox, from the defaults."""
    if before is None:
        shown = render(after)
        return [_difference(BY_NAME[name], None, value) for name, value in shown.items()]
    if before == after:
        return []
    return [
        _difference(option, *(option.dump(getattr(spec, option.name)) for spec in (before, after)))
        for option in STORED
        if getattr(before, option.name) != getattr(after, option.name)
    ]


def _difference(option: Option, before: Any, after: Any) -> Difference:
    change = option.cost(before, after) if option.cost else option.change
    return Difference(option.name, before, after, change or Change.LIVE)


def render(spec: Spec) -> Dict[str, Any]:
    """The name and the options that are not at their default, in the user's notation."""
    usual = from_table({"name": spec.name})
    return {
        option.name: option.dump(getattr(spec, option.name))
        for option in STORED
        if option.required or getattr(spec, option.name) != getattr(usual, option.name)
    }


def render_differences(differences: Iterable[Difference]) -> Dict[str, Dict[str, Any]]:
    """Ansible's diff: before and after, each option marked with its class."""
    items = list(differences)
    return {
        "before": {item.title: item.before for item in items},
        "after": {item.title: item.after for item in items},
    }
