# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plain values of every option: strings, flags, choices, containers; each refusal is a SpecError.

A parser takes the option's path ("networks[0].name") and the raw value, and returns the normalised
value. A dumped value is valid input again, so the same parsers read a stored spec.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, Iterable, Mapping

from ..errors import SpecError

# A single argument or "NAME=value" of execve(2) may take 32 pages with its final NUL.
MAX_STRING = 131071
MAX_INTEGER = 2**63 - 1
_OF_TEMPLATES = "after a template, add | string"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Excerpt(str):
    """A text that stands for a value in a message; its repr is the text itself."""

    def __repr__(self) -> str:
        return str(self)


# Stands for a value that no message may show.
THE_VALUE = _Excerpt("the value")


class _Brief(reprlib.Repr):
    """A bounded repr; Python refuses to print integers of thousands of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlevel = 3

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        """Without values: one may be a secret that is at the wrong place."""
        return f"{{{', '.join(f'{self.repr(key)}: ...' for key in x)}}}" if x else "{}"

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if _is_printable(x) else f"<integer of {x.bit_length()} bits>"


def _is_printable(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() <= 256


def brief(value: object) -> str:
    return _Brief().repr(value)


def refusal(option: str, value: object, problem: str, *, hint: str = "") -> SpecError:
    """A SpecError whose message stays short and printable whatever the value is."""
    shown = brief(value)
    plain = isinstance(value, (str, float, bool, type(None))) or _is_printable(value)
    short = plain and shown == repr(value)
    return SpecError(option, value if short else _Excerpt(shown), problem, hint=hint)


def missing(option: str) -> SpecError:
    return SpecError(option, _Excerpt("no value"), "given", hint=f"{option} is required")


def type_name(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "mapping", list: "list"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def a_type(value: object) -> str:
    name = type_name(value)
    if value is None:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def text(option: str, value: Any, *, secret: bool = False) -> str:
    """A string that the kernel accepts.

    A number is refused: YAML may have made it of another text, and nobody can tell which.
    """
    shown = THE_VALUE if secret else value
    if not isinstance(value, str):
        hint = _as_text(value, secret=secret, is_mode=option.endswith("mode"))
        raise refusal(option, shown, f"is {a_type(value)}, not a string", hint=hint)
    if "\0" in value:
        raise refusal(option, shown, "contains a NUL character", hint="remove it")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise refusal(option, shown, "is not valid Unicode", hint="use UTF-8 text") from error
    if size > MAX_STRING:
        raise refusal(option, shown, f"is longer than {MAX_STRING} bytes", hint="shorten it")
    return str(value)


def _as_text(value: Any, *, secret: bool, is_mode: bool = False) -> str:
    """The hint for a value that has to be text; of a secret it tells the type only."""
    if isinstance(value, bool):
        return "quote it: YAML reads yes, no, on and off as booleans"
    if isinstance(value, int) and secret:
        return f"quote it: YAML reads 22:22 as 1342 and 010 as 8; {_OF_TEMPLATES}"
    if isinstance(value, int) and 0 <= value <= MAX_INTEGER:
        # YAML 1.1 has numbers to base 60, and octal ones.
        other = f"{value // 60}:{value % 60}" if value >= 60 and not is_mode else f"0{value:o}"
        return f"quote it: YAML reads {other} as {value}, too; {_OF_TEMPLATES}"
    if isinstance(value, float):
        return f"quote it: YAML reads 1.10 as 1.1; {_OF_TEMPLATES}"
    return "give it text, or leave it out" if value is None else "write it as text, in quotes"


def digits(value: Any) -> Any:
    """A whole number as text, for options whose other notations YAML does not read as numbers."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole and abs(value) <= MAX_INTEGER else value


def line(option: str, value: Any) -> str:
    """A string without control characters, so that it stays one field of one line."""
    string = text(option, value)
    if _CONTROL.search(string):
        raise refusal(option, value, "contains a control character", hint="remove it")
    return string


def lines(option: str, value: Any) -> list[str]:
    return [line(f"{option}[{index}]", item) for index, item in enumerate(sequence(option, value))]


def flag(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise refusal(option, value, f"is {a_type(value)}, not a boolean", hint="use true or false")
    return value


def choice(option: str, value: Any, *, choices: Iterable[str]) -> str:
    # YAML 1.1 reads a bare `no` as false.
    known = tuple(choices)
    chosen = "no" if value is False and "no" in known else value
    if not isinstance(chosen, str) or chosen not in known:
        raise refusal(option, value, "is not a choice", hint=f"use one of {', '.join(known)}")
    return str(chosen)


def sequence(option: str, value: Any, *, secret: bool = False) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        shown = THE_VALUE if secret else value
        raise refusal(option, shown, f"is {a_type(value)}, not a list", hint="write it as a list")
    return list(value)


def mapping(
    option: str, value: Any, *, secret: bool = False, hint: str = "use `key: value`"
) -> dict[str, Any]:
    """A mapping with string keys; values are left to the caller."""
    if not isinstance(value, Mapping):
        shown = THE_VALUE if secret else value
        raise refusal(option, shown, f"is {a_type(value)}, not a mapping", hint=hint)
    for key in value:
        if not isinstance(key, str):
            raise refusal(option, key, f"is {a_type(key)}, not a string key", hint="quote it")
    return dict(value)


def unique(option: str, values: Iterable[str], *, what: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise refusal(option, value, f"is the same {what} twice", hint="keep one of them")
        seen.add(value)
