# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Operations: the steps of a run, described and done by the same objects.

Check mode prints operations, a normal run applies them; a run with operations reports changed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Iterable, Optional, Sequence, Tuple

from .errors import SandlotError
from .oserrors import explained

# Sandboxes that failed in a run, and why.
Failures = Dict[str, SandlotError]
Together = Callable[[Sequence[str], Failures], None]


class Change(enum.Enum):
    """The cost of an operation for a running sandbox."""

    LIVE = "live"
    RESTART = "restart"
    REBUILD = "rebuild"


@dataclass(frozen=True)
class Operation:
    """One step from observed to desired; applying it twice is harmless.

    An operation without ``action`` is a line that announces the next silent operation. ``subject``
    names the sandbox that a failure concerns; without a subject, a failure ends the run.
    """

    target: str
    summary: str
    action: Optional[Callable[[], None]] = field(default=None, compare=False, repr=False)
    change: Change = Change.LIVE
    subject: str = ""
    silent: bool = False

    def describe(self) -> str:
        suffix = "" if self.change is Change.LIVE else f" ({self.change.value})"
        return f"{self.target}: {self.summary}{suffix}"

    def apply(self, failures: Optional[Failures] = None) -> None:
        """Act; an operation for many sandboxes adds to the ``failures`` of the run so far."""
        if self.action is not None:
            self.action()


@dataclass(frozen=True)
class _Batch(Operation):
    names: Tuple[str, ...] = ()
    together: Optional[Together] = field(default=None, compare=False, repr=False)

    def apply(self, failures: Optional[Failures] = None) -> None:
        known = {} if failures is None else failures
        remaining = [name for name in self.names if name not in known]
        if remaining and self.together is not None:
            self.together(remaining, known)


def batch(
    summary: str, names: Iterable[str], together: Together, lines: Iterable[Operation] = ()
) -> list[Operation]:
    """One silent operation for many sandboxes, behind the lines that announce it.

    The operation skips sandboxes that have failed.
    """
    names = tuple(names)
    if not names:
        return []
    return [*lines, _Batch("sandboxes", summary, silent=True, names=names, together=together)]


def of_one(name: str, operations: Iterable[Operation], *, silent: bool) -> list[Operation]:
    """Operations that fail for one sandbox alone; ``silent`` when another line announces them."""
    return [
        replace(operation, subject=name, silent=silent or operation.silent)
        for operation in operations
    ]


def descriptions(operations: Iterable[Operation]) -> list[str]:
    return [operation.describe() for operation in operations if not operation.silent]


def apply_all(operations: Iterable[Operation]) -> None:
    """Apply in order up to the first failure."""
    for operation in operations:
        operation.apply()


def apply_each(operations: Iterable[Operation]) -> Failures:
    """Apply in order; an explained failure with a subject skips that sandbox, any other ends it."""
    failures: Failures = {}
    for operation in operations:
        if operation.subject not in failures:
            _apply(operation, failures)
    return failures


def _apply(operation: Operation, failures: Failures) -> None:
    title = operation.describe()
    try:
        operation.apply(failures)
    except SandlotError as error:
        failure = SandlotError(f"{title}: {error.message}", hint=error.hint)
        if not operation.subject:
            raise failure from error
        failures[operation.subject] = failure
    except OSError as error:
        raise explained(error, title) from error
