# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The parts of a conversion: what the caller asked for, the sandbox of a service, the project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .nodes import Node
from .project import Loader
from .values import mapping

Json = dict[str, Any]
_ITEM = re.compile(r"([a-z_0-9]+)(?:\[([0-9]+)\]|\['(.*)'\]|\.([a-z_]+))?")


@dataclass(frozen=True)
class Request:
    """The options of the lookup."""

    images: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    profiles: Sequence[str] | None = None
    instances: Mapping[str, Json] = field(default_factory=dict)
    directory: str | None = None
    subnet_pool: str = "10.78.0.0/15"


class Sandbox:
    """Options of a sandbox, and the values of the Compose file that they came from."""

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.node = node
        self.options: Json = {}
        self._whole: dict[str, Node] = {}
        self._parts: dict[tuple[str, str], Node] = {}

    def set(self, option: str, value: Any, node: Node) -> None:
        self.options[option] = value
        self._whole[option] = node

    def add(self, option: str, item: Any, node: Node) -> None:
        """One more item of a list."""
        items = self.options.setdefault(option, [])
        self._parts[option, str(len(items))] = node
        self._whole.setdefault(option, node)
        items.append(item)

    def put(self, option: str, key: str, value: Any, node: Node) -> None:
        """One more entry of a mapping."""
        self.options.setdefault(option, {})[key] = value
        self._parts[option, key] = node
        self._whole.setdefault(option, node)

    def origin(self, path: str, value: object = None) -> Node:
        """The value that an option, or an item of it, came from; else the service.

        Some errors name the option alone: ``value`` tells the item then.
        """
        match = _ITEM.match(path)
        if not match:
            return self.node
        option, part = match[1], match[2] or match[3] or match[4]
        near = self._parts.get((option, part or self._part(option, str(value))))
        return near or self._whole.get(option, self.node)

    def _part(self, option: str, value: str) -> str:
        """The key of a mapping, or the index of the last item in a list, that has a value."""
        items = self.options.get(option)
        for index, item in reversed(list(enumerate(items if isinstance(items, list) else ()))):
            words = map(str, item.values()) if isinstance(item, dict) else str(item).split(":")
            if value in (*words, str(item)):
                return str(index)
        return value


@dataclass
class Project:
    """A loaded project, the entries made so far and the names that its parts get."""

    name: str
    base: Path
    tree: Node
    loader: Loader
    request: Request
    services: dict[str, Node] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    links: dict[str, list[str]] = field(default_factory=dict)
    sandboxes: dict[str, list[Sandbox]] = field(default_factory=dict)
    images: dict[str, Json] = field(default_factory=dict)
    networks: dict[str, Json] = field(default_factory=dict)
    volumes: dict[str, Json] = field(default_factory=dict)
    origins: dict[tuple[str, str], Node] = field(default_factory=dict)

    def warn(self, node: Node, problem: str) -> None:
        self.loader.warn(node, problem)

    def section(self, name: str) -> dict[str, Node]:
        node = self.tree.get(name)
        return mapping(node) if node else {}

    def declared(self, section: str, name: str, node: Node) -> Node:
        """The entry of a section that a service refers to."""
        entries = self.section(section)
        if name not in entries:
            known = f"there are: {', '.join(entries)}" if entries else f"there are no {section}"
            hint = f"declare it under {section} at the top of the file; {known}"
            raise node.failure(f"{section[:-1]} {name!r} is not declared", hint)
        return entries[name]

    def instances(self, service: str) -> list[str]:
        """The sandboxes of a service: NAME, NAME-2 and so on."""
        numbers = range(2, self.counts[service] + 1)
        return [service, *(f"{service}-{number}" for number in numbers)]

    def own(self, name: str) -> str:
        """A name of the project's own, so that two projects of a host do not meet."""
        return f"{self.name}_{name}"

    def inside(self, node: Node, relative: str) -> Path:
        """A path of the controller that a Compose file gives from its own directory."""
        return node.source.base / relative


@dataclass
class Service:
    """A service while it is converted."""

    name: str
    node: Node
    project: Project
    sandbox: Sandbox

    def get(self, key: str) -> Node | None:
        return self.node.get(key)

    def warn(self, node: Node, problem: str) -> None:
        self.project.warn(node, problem)
