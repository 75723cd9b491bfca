# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A crash as the rules of remedies see it: record, facts of the host, last words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Sequence

from ..site import Site
from ..spec import Spec
from .process import Process, capabilities
from .record import Record
from .root_view import Entry, RootView, Unknown

_PATH = re.compile(r"/[\w.@%+=~-]+(?:/[\w.@%+=~-]+)*")


@dataclass(frozen=True)
class Facts:
    """``kills`` counts those for memory since the start; ``again`` is a workload started again."""

    code: int = 0
    again: bool = False
    kills: int = 0
    refused_processes: int | None = None
    lost_log_bytes: int = 0
    lines: Sequence[str] = ()
    root: RootView | None = None


@dataclass(frozen=True)
class Case:
    site: Site
    record: Record
    runs: Process
    facts: Facts

    @property
    def spec(self) -> Spec:
        return self.record.spec

    @property
    def capabilities(self) -> Sequence[str]:
        """The capabilities that the workload starts with."""
        return capabilities(self.record) if self.is_root else self.record.spec.capabilities

    @property
    def is_root(self) -> bool:
        return self.runs.user.partition(":")[0] in ("0", "root")

    def lines(self, words: str) -> List[str]:
        """The last lines that match, the last one first."""
        return [line for line in reversed(self.facts.lines) if re.search(words, line, re.I)]

    def says(self, words: str) -> bool:
        return bool(self.lines(words))

    def entry(self, path: str) -> Entry | None:
        if self.facts.root is None:
            raise Unknown
        return self.facts.root.entry(path)


def last_path(line: str) -> str:
    """The last absolute path of a line: the first may be the program that complains."""
    return next(reversed([text.rstrip(".") for text in _PATH.findall(line)]), "")
