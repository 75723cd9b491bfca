# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compose's short notations of volumes and ports, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .nodes import Node
from .values import number_text, text

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_RANGE = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
_PORT = re.compile(
    rf"(?:(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9a-fA-F:.]*[.:][0-9a-fA-F:.]*|):)?(?P<host>{_RANGE}|):)?"
    rf"(?P<inside>{_RANGE})(?:/(?P<protocol>[a-zA-Z]+))?"
)


@dataclass(frozen=True)
class Volume:
    source: str
    target: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Port:
    """A published port; ``host`` is "" when Compose would choose one."""

    address: str
    host: str
    inside: str
    protocol: str


def volume(node: Node) -> Volume:
    whole = text(node)
    if _WINDOWS.match(whole):
        hint = "write a path of the host, from / on, or the name of a volume"
        raise node.error("is a path of Windows", hint)
    parts = whole.split(":")
    if len(parts) > 3 or not parts[0] or (len(parts) > 1 and not parts[1]):
        hint = "write SOURCE:TARGET or SOURCE:TARGET:ro"
        raise node.error("is not a volume", hint)
    if len(parts) == 1:
        return Volume("", whole, ())
    words = tuple(word for word in "".join(parts[2:]).split(",") if word)
    return Volume(parts[0], parts[1], words)


def port(node: Node) -> Port:
    whole = text(node).strip()
    match = _PORT.fullmatch(whole)
    if not match:
        hint = 'write "8080:80", "127.0.0.1:8080:80/tcp" or "8000-8010:8000-8010"'
        raise node.error("is not a port", hint)
    address = (match["ip"] or "").strip("[]")
    return Port(address, match["host"] or "", match["inside"], (match["protocol"] or "tcp").lower())


def port_key(node: Node) -> tuple[str, ...]:
    """The parts by which Compose calls two ports the same."""
    if not isinstance(node.value, dict):
        short = port(node)
        return (short.address, short.inside, short.host, short.protocol)
    keys = ("host_ip", "target", "published", "protocol")
    fields = [node.value[key].value if key in node.value else None for key in keys]
    words = [
        "" if x is None else number_text(x) if isinstance(x, float) else str(x) for x in fields
    ]
    return (words[0], words[1], words[2], words[3] or "tcp")


def target_key(node: Node, directory: str = "") -> tuple[str, ...]:
    """The target of a volume, device, config or secret, below ``directory`` unless it has one."""
    value = node.value
    if isinstance(value, dict):
        target = value.get("target") or value.get("source")
        name = str(target.value) if target else ""
    elif directory:
        name = text(node)
    else:
        parts = text(node).split(":")
        name = parts[1] if len(parts) > 1 else parts[0]
    return (name if name.startswith("/") or not directory else f"{directory}/{name}",)
