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
    expected: str
    actual: str


@dataclass
class Look:
    """One aspect: a line of what is there, and each difference from what should be there."""

    shown: str
    differences: List[Difference] = field(default_factory=list)

    def expect(self, what: str, expected: object, actual: object) -> None:
        """Note a difference, unless the two are equal."""
        if expected != actual:
            self.differences.append(Difference(f"{what} {expected}", f"{what} {actual}"))


@dataclass(frozen=True)
class Subject:
    """A running sandbox: its record, launch file and init, and the pids in its pid namespace."""

    site: Site
    record: Record
    launch: Mapping[str, Any]
    init: Running
    pids: Sequence[int]
    cgroups: CgroupState
