# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""depends_on: which sandboxes have to run, to be healthy or to be done before this one starts."""

from __future__ import annotations

from functools import partial
from typing import Any, Mapping

from .names import sandbox_name
from .option import Option, record
from .text import choice, sequence, unique
from .values import Dependency

STARTED, HEALTHY, COMPLETED = "started", "healthy", "completed"
CONDITIONS = (STARTED, HEALTHY, COMPLETED)
FIELDS = (
    Option("name", "str", sandbox_name, ["Name of a sandbox of the host."], required=True),
    Option(
        "condition",
        "str",
        partial(choice, choices=CONDITIONS),
        ["The state that it has to reach first."],
        default=STARTED,
        choices=CONDITIONS,
    ),
)


def depends_on(option: str, value: Any) -> tuple[Dependency, ...]:
    needed: list[Dependency] = []
    for index, item in enumerate(sequence(option, value)):
        given = item if isinstance(item, Mapping) else {"name": item}
        needed.append(record(f"{option}[{index}]", given, fields=FIELDS, make=Dependency))
    unique(option, (item.name for item in needed), what="name")
    return tuple(sorted(needed, key=lambda item: item.name))


def dump(items: tuple[Dependency, ...]) -> list[Any]:
    return [item.name if item.condition == STARTED else dict(vars(item)) for item in items]
