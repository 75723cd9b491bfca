# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The files, commands and claims of docs/tutorial.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from readme import TREE

PAGE = TREE / "docs/tutorial.md"
_BLOCK = re.compile(r"(?:^\*\*(\S+)\*\*\n\n)?^```([^\n]*)\n(.*?)^```$", re.M | re.S)
# Such a comment of a command says that it ends with an error.
_FAILS = re.compile(r" +# fails$")
# Signs of progress, which a terminal writes over.
_BEFORE_BACKSPACE = re.compile(r".\x08")


@dataclass(frozen=True)
class File:
    path: str
    text: str


@dataclass(frozen=True)
class Command:
    line: str
    fails: bool


@dataclass(frozen=True)
class Seen:
    """Lines that the commands before it have shown, among others and in this order."""

    lines: tuple[str, ...]

    def missing(self, shown: str) -> str | None:
        """The first line that is not there; three dots stand for any text, also of many lines."""
        lines = iter(_BEFORE_BACKSPACE.sub("", shown).splitlines())
        for line in self.lines:
            pattern = ".*".join(map(re.escape, line.strip().split("...")))
            if not any(re.fullmatch(pattern, each.strip()) for each in lines):
                return line
        return None


def steps() -> Iterator[File | Command | Seen]:
    """All blocks in their order, but those of the kind text."""
    for path, kind, text in _BLOCK.findall(PAGE.read_text()):
        if kind.endswith(" file"):
            assert path, f"the path is not above the file: {text}"
            yield File(path, text)
        elif kind == "sh tutorial":
            for line in text.splitlines():
                yield Command(_FAILS.sub("", line), bool(_FAILS.search(line)))
        elif kind == "text seen":
            yield Seen(tuple(text.splitlines()))
        else:
            assert kind == "text", f"unknown kind of block: {kind}"


def packages() -> tuple[str, ...]:
    """The packages that its reader installs first."""
    (names,) = re.findall(r"^sudo apt install (.*)$", PAGE.read_text(), re.M)
    return tuple(names.split())
