# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads env files as Compose does: comments, ``export``, quotes and escapes.

Values may be secrets: errors have the number of a line and none of its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Iterator, Mapping

# Called with a value, its line and the variables before it.
Expand = Callable[[str, int, Mapping[str, str]], str]

_BLANK = re.compile(r"(?:[^\S\n]*(?:#[^\n]*)?\n)*[^\S\n]*(?:#[^\n]*\Z)?")
_EXPORT = re.compile(r"export[^\S\n]+")
_NAME = re.compile(r"([\w.\[\]-]+)[^\S\n]*([=:]|(?=\n|\Z|#))[^\S\n]*", re.A)
_PLAIN = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"\s#.*")
_QUOTED = {
    "'": re.compile(r"'((?:\\.|[^'\\])*)'", re.S),
    '"': re.compile(r'"((?:\\.|[^"\\])*)"', re.S),
}
_END = re.compile(r"[^\S\n]*(?:#[^\n]*)?(?:\n|\Z)")
_ESCAPE = re.compile(r"\\(?:([abcfnrtv$\"\\])|0([0-7]{0,3}))")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class EnvFileError(ValueError):
    """A line that is not one of an env file."""

    def __init__(self, line: int, problem: str, hint: str) -> None:
        super().__init__(line, problem, hint)
        self.line, self.problem, self.hint = line, problem, hint

    def __str__(self) -> str:
        return f"line {self.line} {self.problem}; {self.hint}"


@dataclass(frozen=True)
class Entry:
    """A variable; ``value`` is None for a name alone, which Compose takes from its environment."""

    name: str
    value: str | None
    line: int


def parse(text: str, expand: Expand | None = None) -> list[Entry]:
    """The variables in their order; ``expand`` puts in others, outside of single quotes.

    Without ``expand``, a dollar sign is one. With it, ``$$`` is one, as in a Compose file.
    """
    return list(_entries(text.lstrip("\ufeff").replace("\r\n", "\n"), expand))


def parse_raw(text: str) -> list[Entry]:
    """The variables in Compose's format raw: all after the equals sign is the value."""
    entries: list[Entry] = []
    for line, row in enumerate(text.lstrip("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        name, equals, value = row.lstrip().partition("=")
        if not name and not equals or name.startswith("#"):
            continue
        if not name or len(name.split()) != 1 or name != name.rstrip():
            hint = "write NAME=value, without a space before the equals sign"
            raise EnvFileError(line, "does not start with the name of a variable", hint)
        entries.append(Entry(name, value if equals else None, line))
    return entries


def _entries(text: str, expand: Expand | None) -> Iterator[Entry]:
    known: dict[str, str] = {}
    at, seen, line = _skip(_BLANK, text, 0), 0, 1
    while at < len(text):
        line, seen = line + text.count("\n", seen, at), at
        name, has_value, at = _name(text, _skip(_EXPORT, text, at), line)
        value = None
        if has_value:
            value, expands, at = _value(text, at, line, escaped="$$" if expand else "$")
            known[name] = value = expand(value, line, known) if expand and expands else value
        yield Entry(name, value, line)
        end = _END.match(text, at)
        if not end:
            last = line + text.count("\n", seen, at)
            raise EnvFileError(last, "goes on after a value", "quote the whole value")
        at = _skip(_BLANK, text, end.end())


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _name(text: str, at: int, line: int) -> tuple[str, bool, int]:
    match = _NAME.match(text, at)
    if not match:
        hint = "write NAME=value; quote a value of several lines"
        raise EnvFileError(line, "does not start with the name of a variable", hint)
    return match[1], bool(match[2]), match.end()


def _value(text: str, at: int, line: int, *, escaped: str) -> tuple[str, bool, int]:
    """A value, whether variables are put in, and where it ends."""
    quote = text[at : at + 1]
    if quote not in _QUOTED:
        # The white space before the value belongs to a comment in its place.
        plain = text[at : _skip(_PLAIN, text, at)]
        is_comment = plain.startswith("#") and text[at - 1].isspace()
        return "" if is_comment else _COMMENT.sub("", plain).rstrip(), True, at + len(plain)
    quoted = _QUOTED[quote].match(text, at)
    if not quoted:
        raise EnvFileError(line, f"has a value without its final {quote}", "add the quote")
    if quote == "'":
        return quoted[1].replace("\\'", "'"), False, quoted.end()
    return _unescaped(quoted[1], escaped), True, quoted.end()


def _unescaped(text: str, dollar: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1] == "$":
            return dollar
        if match[1]:
            return _ESCAPED.get(match[1], match[1] if match[1] in '"\\' else match[0])
        return chr(int(match[2], 8)) if match[2] else match[0]

    return _ESCAPE.sub(character, text)
