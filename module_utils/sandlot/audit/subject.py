# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The subject of an audit, and the outcome of a look at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Mapping, NamedTuple, Sequence

from ..cgroups import CgroupState
from ..sandbox.record import Record
from ..sandbox.runtime import Running
from ..site import Site


class Difference(NamedTuple):
    """``action`` is the line of the run that would end it, "" where none is known."""

    expected: str
    actual: str
    action: str = ""


@dataclass
class Look:
    """One aspect: a line of what is there, and each difference from what should be there."""

    shown: str
    differences: List[Difference] = field(default_factory=list)

    def expect(self, what: str, expected: object, actual: object, action: str = "") -> None:
        """Note a difference, unless the two are equal."""
        if expected != actual:
            self.differences.append(Difference(f"{what} {expected}", f"{what} {actual}", action))


@dataclass(frozen=True)
class Subject:
    """A running sandbox: its record, launch file and init, and the pids in its pid namespace."""

    site: Site
    record: Record
    launch: Mapping[str, Any]
    init: Running
    pids: Sequence[int]
    cgroups: CgroupState
