# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes only the elements of sets and maps, where new rules differ from the old in nothing else.

When a table is replaced, the kernel forgets its counted connections. A new sandbox, port or address
of a name must not cause that.
"""

from __future__ import annotations

import re
from typing import Dict, Tuple

TABLE = re.compile(r"table (\w+ \w+) \{")
BLOCK = re.compile(r"\t(set|map) (\w+) \{")
ELEMENTS = re.compile(r"\t\telements = \{ (.*) \}")

# The key of a set: family and table, "set" or "map", and its name.
Key = Tuple[str, str, str]


def script(before: str, after: str) -> str | None:
    """nft commands from the old rules to the new ones; None when more than elements differ."""
    (old_frame, old), (new_frame, new) = _taken_apart(before), _taken_apart(after)
    if not before or old_frame != new_frame:
        return None
    gone = {key: old[key] - new[key] for key in sorted(old)}
    come = {key: new[key] - old[key] for key in sorted(old)}
    return "".join([*_lines("delete", gone), *_lines("add", come)])


def contains(whole: str, part: str) -> bool:
    """Whether rules have all lines and elements of others."""
    (lines, elements), (needed, due) = _taken_apart(whole), _taken_apart(part)
    return set(needed) <= set(lines) and all(
        words <= elements.get(key, set()) for key, words in due.items()
    )


def _lines(verb: str, elements: Dict[Key, set[str]]) -> list[str]:
    return [
        f"{verb} element {table} {name} {{ {', '.join(sorted(words))} }}\n"
        for (table, dummy, name), words in elements.items()
        if words
    ]


def _taken_apart(text: str) -> tuple[list[str], Dict[Key, set[str]]]:
    """The lines without those of elements, and the elements of each set and map."""
    frame, elements_of, table = [], {}, ""  # type: list[str], Dict[Key, set[str]], str
    key = ("", "", "")
    for line in text.splitlines():
        elements = ELEMENTS.fullmatch(line)
        if elements:
            elements_of[key] = set(elements[1].split(", "))
            continue
        frame.append(line)
        opened, block = TABLE.fullmatch(line), BLOCK.fullmatch(line)
        table = opened[1] if opened else table
        if block:
            key = (table, block[1], block[2])
            elements_of[key] = set()
    return frame, elements_of
