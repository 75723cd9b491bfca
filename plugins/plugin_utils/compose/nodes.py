# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads YAML as Compose does, and keeps the file and line of every value.

Scalars are typed by the rules of YAML 1.2's core schema and Go's parser: ``no`` and ``22:22`` are
text, ``0640`` is octal. No tag makes an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ...module_utils.sandlot.spec.text import brief

MAX_NODES = 100_000
MAX_DEPTH = 50
_DEEP = f"the file has values nested more than {MAX_DEPTH} deep"
RESET, OVERRIDE = "!reset", "!override"
_PLAIN = "plain"
_YAML = "tag:yaml.org,2002:"
_STANDARD = {f"{_YAML}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


class ComposeError(Exception):
    """A value that can't be carried over; the message has its file, line, path and remedy."""


@dataclass(frozen=True)
class Source:
    """A Compose file; ``base`` is the directory that its relative paths start from."""

    path: Path
    base: Path


@dataclass(frozen=True)
class Node:
    """A value, its place in a file and its path of keys.

    ``raw`` is the text of a scalar as the file has it, ``tag`` is ``!reset`` or ``!override``.
    ``outside`` marks text with a value from an environment, which messages do not show.
    """

    value: Any
    source: Source
    line: int
    path: str = ""
    raw: str = ""
    tag: str = ""
    outside: bool = False
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def place(self) -> str:
        where = f"{self.source.path}:{self.line}"
        return f"{where}: {self.path}" if self.path else where

    @property
    def shown(self) -> str:
        if isinstance(self.value, dict):
            return "the mapping"
        if isinstance(self.value, list):
            return "the list"
        if self.value is None:
            return "null"
        return brief(self.raw if self.outside else self.value)

    def error(self, problem: str, hint: str) -> ComposeError:
        """An error that shows the value."""
        return self.failure(f"{self.shown} {problem}", hint)

    def failure(self, message: str, hint: str) -> ComposeError:
        return ComposeError(f"{self.place}: {message}; {hint}" if hint else message)

    def get(self, key: str) -> Node | None:
        """The value of a key; None when it is missing or null."""
        node = self.value.get(key) if isinstance(self.value, dict) else None
        return node if node is not None and node.value is not None else None

    def with_text(self, text: str, *, outside: bool) -> Node:
        return replace(self, value=text, outside=outside)


def parse(text: str, source: Source) -> list[Node]:
    """The documents of a file."""
    try:
        documents = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ComposeError(f"{source.path}:{line}: is not YAML: {problem}") from error
    except yaml.YAMLError as error:
        raise ComposeError(f"{source.path}: is not YAML: {error}") from error
    except RecursionError as error:
        raise ComposeError(f"{source.path}: {_DEEP}; flatten it") from error
    reader = _Reader(source)
    return [reader.read(node, "", node.start_mark.line + 1) for node in documents]


class _Loader(yaml.SafeLoader):
    """Marks plain scalars instead of giving them YAML 1.1's types."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else f"{_YAML}str"
        return super().resolve(kind, value, implicit)


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._count = 0
        self._within: set[int] = set()

    def read(self, node: yaml.Node, path: str, line: int) -> Node:
        empty = Node(None, self._source, line, path)
        self._count += 1
        if len(self._within) > MAX_DEPTH:
            raise empty.failure(_DEEP, "flatten it")
        if self._count > MAX_NODES:
            hint = "use fewer aliases"
            raise empty.failure(f"the file has more than {MAX_NODES} values", hint)
        if id(node) in self._within:
            hint = "don't use an alias within its own anchor"
            raise empty.failure("the alias holds itself", hint)
        tag = node.tag if node.tag in (RESET, OVERRIDE) else ""
        if not tag and node.tag != _PLAIN and node.tag not in _STANDARD:
            shown = "!" + node.tag[len(_YAML) :] if node.tag.startswith(_YAML) else node.tag
            hint = "use !reset, !override or none; give vaulted values by the option env"
            raise empty.failure(f"{shown} is no tag of Compose files", hint)
        self._within.add(id(node))
        value, lines, raw = self._value(node, path, empty)
        self._within.discard(id(node))
        return replace(empty, value=value, lines=lines, raw=raw, tag=tag)

    def _value(self, node: yaml.Node, path: str, empty: Node) -> tuple[Any, dict[str, int], str]:
        if isinstance(node, yaml.MappingNode):
            value, lines = self._mapping(node, path, empty)
            return value, lines, ""
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            listed = [
                self.read(item, f"{path}[{i}]", item.start_mark.line + 1) for i, item in items
            ]
            return listed, {}, ""
        return _scalar(node, empty), {}, node.value

    def _mapping(
        self, node: yaml.MappingNode, path: str, empty: Node
    ) -> tuple[dict[str, Node], dict[str, int]]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            here = replace(empty, line=line)
            if not isinstance(key, yaml.ScalarNode):
                raise here.failure("a key is no text", "write it as `key: value`")
            name = key.value
            if name == "<<" and key.tag == _PLAIN:
                for other in self._sources(item, path, here):
                    merged = {**other, **merged}
                continue
            if name in own:
                hint = f"keep one of them; the first is on line {lines[name]}"
                raise here.failure(f"the key {brief(name)} is there twice", hint)
            lines[name] = line
            own[name] = self.read(item, f"{path}.{name}" if path else name, line)
        return {**merged, **own}, lines

    def _sources(self, item: yaml.Node, path: str, here: Node) -> Iterator[dict[str, Node]]:
        """The mappings of a merge key; of two, the earlier one counts."""
        for each in item.value if isinstance(item, yaml.SequenceNode) else [item]:
            if not isinstance(each, yaml.MappingNode):
                hint = "merge an anchor of a mapping: `<<: *name` or `<<: [*one, *two]`"
                raise here.failure("<< merges what is no mapping", hint)
            value = self.read(each, path, each.start_mark.line + 1).value
            yield value


def _scalar(node: yaml.ScalarNode, empty: Node) -> Any:
    text = node.value
    if node.tag == _PLAIN:
        return resolved(text)
    kind = node.tag[len(_YAML) :]
    if kind in ("map", "seq"):
        raise empty.failure("a tag does not fit its value", "leave the tag out")
    return resolved(text) if kind in ("int", "float", "bool", "null") else _untagged(node)


def _untagged(node: yaml.ScalarNode) -> Any:
    """The value below !reset and !override, whose plain scalars have no type of their own."""
    is_plain = node.tag in (RESET, OVERRIDE) and node.style is None
    return resolved(node.value) if is_plain else node.value


def resolved(text: str) -> Any:
    """The value of a plain scalar."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text) and len(text) < 30:
        digits = text.replace("_", "")
        octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
        return int(f"{octal[1]}0o{octal[2]}", 8) if octal else int(digits, 0)
    if _FLOAT.fullmatch(text) and len(text) < 30:
        return float(text)
    return text


def placed(node: Node, path: str = "") -> Node:
    """The tree with the paths that its values have after merging."""
    value = node.value
    if isinstance(value, dict):
        value = {k: placed(x, f"{path}.{k}" if path else k) for k, x in value.items()}
    elif isinstance(value, list):
        value = [placed(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return replace(node, value=value, path=path)
