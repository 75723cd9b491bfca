# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Operations: the steps of a run, described and done by the same objects.

Check mode prints them, diff renders them, a normal run applies them; ``changed`` is "any".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Callable, Iterable


class Change(enum.Enum):
    """The cost of an operation for a running sandbox."""

    LIVE = "live"
    RESTART = "restart"
    REBUILD = "rebuild"


@dataclass(frozen=True)
class Operation:
    """One step from observed to desired; applying it twice is harmless."""

    target: str
    summary: str
    action: Callable[[], None] = field(compare=False, repr=False)
    change: Change = Change.LIVE

    def describe(self) -> str:
        suffix = "" if self.change is Change.LIVE else f" ({self.change.value})"
        return f"{self.target}: {self.summary}{suffix}"

    def apply(self) -> None:
        self.action()


def descriptions(operations: Iterable[Operation]) -> list[str]:
    return [operation.describe() for operation in operations]


def apply_all(operations: Iterable[Operation]) -> None:
    for operation in operations:
        operation.apply()
