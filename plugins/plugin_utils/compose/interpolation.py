# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Puts variables into text: $NAME, ${NAME}, ${NAME:-x}, ${NAME-x}, :? ? :+ + and $$."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from .nodes import Node

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
MAX_DEPTH = 50
_OPEN = "has ${ without its }"

Warn = Callable[[Node, str], None]


class _Problem(Exception):
    """Text that has no meaning; the arguments are the problem and the remedy."""


class Variables:
    """The variables of a project; ``missing`` collects those that had no value."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def filled(self, node: Node, warn: Warn) -> Node:
        """The tree with variables put into its text, but not into keys."""
        value = node.value
        if isinstance(value, dict):
            return replace(node, value={k: self.filled(x, warn) for k, x in value.items()})
        if isinstance(value, list):
            return replace(node, value=[self.filled(item, warn) for item in value])
        if not isinstance(value, str) or "$" not in value:
            return node
        text = Text(self.values)
        try:
            result = text.fill(value)
        except _Problem as error:
            problem, hint = error.args
            raise node.failure(f"{node.raw[:100]!r} {problem}", hint) from None
        for name in text.missing:
            warn(node, f"the variable {name} is not set: it is empty")
        return node.with_text(result, outside=text.outside)


class Text:
    """One text: which variables it lacks, and whether it has a value from outside of the file."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.missing: list[str] = []
        self.outside = False

    def fill(self, text: str, depth: int = 0) -> str:
        if depth > MAX_DEPTH:
            raise _Problem(
                f"is nested more than {MAX_DEPTH} deep", "use fewer defaults in defaults"
            )
        parts: list[str] = []
        at = 0
        while True:
            dollar = text.find("$", at)
            if dollar < 0:
                return "".join((*parts, text[at:]))
            parts.append(text[at:dollar])
            part, at = self._variable(text, dollar, depth)
            parts.append(part)

    def _variable(self, text: str, dollar: int, depth: int) -> tuple[str, int]:
        """The text in place of what starts with a dollar sign, and where that ends."""
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            return "$", dollar + 2
        if following == "{":
            end = _closing(text, dollar + 1)
            return self._braced(text[dollar + 2 : end], depth), end + 1
        name = _NAME.match(text, dollar + 1)
        return (self._plain(name[0]), name.end()) if name else ("$", dollar + 1)

    def _plain(self, name: str) -> str:
        if name in self._values:
            self.outside = True
            return self._values[name]
        self.missing.append(name)
        return ""

    def _braced(self, inside: str, depth: int) -> str:
        name = _NAME.match(inside)
        operator = _OPERATOR.match(inside, name.end()) if name else None
        if not name or (not operator and name.end() != len(inside)):
            hint = "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+value}"
            raise _Problem(f"has ${{{inside[:40]}}}, which is no variable", hint)
        if not operator:
            return self._plain(name[0])
        rest = inside[operator.end() :]
        value = self._values.get(name[0])
        is_set = bool(value) if operator[0].startswith(":") else value is not None
        if operator[0].endswith("+"):
            return self.fill(rest, depth + 1) if is_set else ""
        if is_set:
            return self._plain(name[0])
        if operator[0].endswith("-"):
            return self.fill(rest, depth + 1)
        message = self.fill(rest, depth + 1).strip()
        problem = f"needs the variable {name[0]}{': ' if message else ''}{message}"
        raise _Problem(problem, "set it in .env, in the environment or by the option env")


def _closing(text: str, brace: int) -> int:
    """The position at which the brace of a variable is closed."""
    depth = 0
    for at in range(brace, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return at
    hint = "close it, or write $$ for a dollar sign"
    raise _Problem(_OPEN, hint)
