# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Steps: operations of a whole host, where one action may serve many sandboxes.

Check mode prints their lines, a normal run applies them; both from the same list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Sequence

from ..errors import SandlotError
from ..oserrors import explained
from ..plan import Change, Operation

Failures = Dict[str, SandlotError]
Action = Callable[[Failures], None]


@dataclass(frozen=True)
class Line:
    """What one step does to one target, in words."""

    target: str
    summary: str
    change: Change = Change.LIVE

    def describe(self) -> str:
        suffix = "" if self.change is Change.LIVE else f" ({self.change.value})"
        return f"{self.target}: {self.summary}{suffix}"


@dataclass(frozen=True)
class Step:
    """``action`` gets the failures so far and adds its own; ``subject`` is its only sandbox."""

    title: str
    action: Action = field(compare=False, repr=False)
    lines: tuple[Line, ...] = ()
    subject: str = ""


def single(operation: Operation, *, subject: str = "", silent: bool = False) -> Step:
    """A step of one operation; ``silent`` when another line already tells of it."""
    line = Line(operation.target, operation.summary, operation.change)
    return Step(
        title=operation.describe(),
        action=lambda failures: operation.apply(),
        lines=() if silent else (line,),
        subject=subject,
    )


def batch(
    title: str,
    names: Sequence[str],
    action: Callable[[list[str], Failures], None],
    lines: Iterable[Line] = (),
) -> list[Step]:
    """One step for many sandboxes; those that have failed before are left out of it."""
    if not names:
        return []

    def run(failures: Failures) -> None:
        remaining = [name for name in names if name not in failures]
        if remaining:
            action(remaining, failures)

    return [Step(title, run, tuple(lines))]


def lines(steps: Iterable[Step]) -> list[Line]:
    return [line for step in steps for line in step.lines]


def apply_all(steps: Iterable[Step]) -> Failures:
    """Apply in order; an explained failure of one sandbox stops that one, any other stops all."""
    failures: Failures = {}
    for step in steps:
        if step.subject in failures:
            continue
        _apply(step, failures)
    return failures


def _apply(step: Step, failures: Failures) -> None:
    try:
        step.action(failures)
    except SandlotError as error:
        told = SandlotError(f"{step.title}: {error.message}", hint=error.hint)
        if not step.subject:
            raise told from error
        failures[step.subject] = told
    except OSError as error:
        raise explained(error, step.title) from error
