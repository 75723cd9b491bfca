# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values of a Compose file by type; an error says what to write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .nodes import Node

_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0"), False),
}
_UNITS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
    "w": 604_800 * 10**9,
}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h|d|w))+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d|w)")


def text(node: Node) -> str:
    """Text, or a number as Compose prints it."""
    if isinstance(node.value, str):
        if "\0" in node.value:
            raise node.error("contains a NUL character", "remove it")
        return node.value
    if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return number_text(node.value)
    raise node.error("is not text", "write text, in quotes")


def number_text(value: float) -> str:
    """A number as Go prints it: 1.10 is 1.1 and 1.0 is 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def scalar(node: Node) -> str:
    """The value of a variable or label: text, a number or a boolean."""
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    return text(node)


def boolean(node: Node) -> bool:
    if isinstance(node.value, bool):
        return node.value
    word = node.value.lower() if isinstance(node.value, str) else ""
    if word not in _WORDS:
        raise node.error("is not a boolean", "use true or false")
    return _WORDS[word]


def integer(node: Node) -> int:
    value = node.value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}", value.strip()):
        return int(value)
    raise node.error("is not a whole number", "use a number such as 10")


def number(node: Node) -> float:
    value = node.value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?", value.strip()):
        return float(value)
    raise node.error("is not a number", "use a number such as 0.5")


def size(node: Node) -> str | int:
    """A size in Compose's notation, which is the engine's."""
    whole = isinstance(node.value, int) and not isinstance(node.value, bool)
    return node.value if whole else text(node).strip()


def nanoseconds(node: Node) -> int:
    whole = text(node).strip()
    if not _DURATION.fullmatch(whole):
        raise node.error("is not a duration", "write it like 30s or 1m30s (h, m, s, ms, us)")
    return sum(round(float(count) * _UNITS[unit]) for count, unit in _PART.findall(whole))


def duration(node: Node) -> str:
    """A duration in the engine's notation."""
    micro = nanoseconds(node) // 1000
    words = ""
    for unit, scale in (("h", 3600 * 10**6), ("m", 60 * 10**6), ("s", 10**6), ("ms", 1000)):
        count, micro = divmod(micro, scale)
        words += f"{count}{unit}" if count else ""
    return f"{words}{micro}us" if micro else words or "0s"


def plain(node: Node) -> Any:
    """The value as YAML has it."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def mapping(node: Node) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise node.error("is not a mapping", "use `key: value`")
    return node.value


def sequence(node: Node) -> list[Node]:
    if not isinstance(node.value, list):
        raise node.error("is not a list", "write it as a list")
    return node.value


def one_or_more(node: Node) -> list[Node]:
    """A list, or a single value in its place."""
    return node.value if isinstance(node.value, list) else [node]


def pairs(node: Node, separators: str = "=") -> dict[str, Node]:
    """A mapping, or a list of NAME=VALUE; the value of a NAME alone is null."""
    if isinstance(node.value, dict):
        return node.value
    given: dict[str, Node] = {}
    for item in sequence(node):
        whole = text(item)
        at = min((whole.find(s) for s in separators if s in whole), default=-1)
        name = (whole if at < 0 else whole[:at]).strip()
        if not name:
            raise item.error("has no name", f"write NAME{separators[0]}VALUE")
        given[name] = Node(
            None if at < 0 else whole[at + 1 :],
            item.source,
            item.line,
            item.path,
            item.raw,
            outside=item.outside,
        )
    return given


def known(node: Node, keys: Iterable[str], what: str) -> dict[str, Node]:
    """The values of a mapping that are not null; an unknown key is an error."""
    names = list(keys)
    for key, item in mapping(node).items():
        if key not in names and not key.startswith("x-"):
            raise unknown(item, key, names, what)
    return {key: item for key, item in node.value.items() if item.value is not None}


def unknown(node: Node, key: str, names: list[str], what: str) -> Exception:
    import difflib

    near = difflib.get_close_matches(key[:64], names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(names)}"
    return node.failure(f"{key[:64]!r} is no key of {what}", hint)
