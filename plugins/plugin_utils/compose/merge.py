# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Merges Compose files, and a service with the one that it extends, as Compose does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .nodes import OVERRIDE, RESET, Node
from .short import port_key, target_key
from .values import mapping, one_or_more, pairs, text

Path = tuple[str, ...]
Key = Callable[[Node], tuple[str, ...]]


def _word(node: Node) -> tuple[str, ...]:
    return (text(node).partition("=")[0],)


def _place(node: Node) -> tuple[str, ...]:
    """The path of a tmpfs."""
    return (text(node).partition(":")[0],)


def _env_file(node: Node) -> tuple[str, ...]:
    path = node.value.get("path") if isinstance(node.value, dict) else node
    return (text(path),) if path else ("",)


def _subnet(node: Node) -> tuple[str, ...]:
    subnet = node.get("subnet")
    return (text(subnet) if subnet else "",)


# Values that the later file replaces as a whole.
_REPLACED = {
    ("services", "*", "command"),
    ("services", "*", "entrypoint"),
    ("services", "*", "healthcheck", "test"),
    ("services", "*", "ulimits", "*"),
}
# Mappings that may be lists of NAME=VALUE.
_PAIRS = {
    *(("services", "*", key) for key in ("annotations", "environment", "labels", "sysctls")),
    ("services", "*", "deploy", "labels"),
    ("services", "*", "build", "args"),
    ("services", "*", "build", "labels"),
    ("networks", "*", "labels"),
    ("volumes", "*", "labels"),
}
# Mappings that may be lists of their keys.
_NAMES = {("services", "*", key) for key in ("depends_on", "models", "networks")}
# Lists; of two items with one key the later file's stays.
_LISTS: dict[Path, Key | None] = {
    **dict.fromkeys(
        [
            ("services", "*", key)
            for key in ("cap_add", "cap_drop", "dns", "dns_opt", "dns_search", "expose", "links")
            + ("profiles", "external_links", "group_add", "security_opt", "extra_hosts")
            + ("label_file",)
        ],
        lambda node: (text(node),),
    ),
    ("services", "*", "tmpfs"): _place,
    ("services", "*", "env_file"): _env_file,
    ("services", "*", "ports"): port_key,
    ("services", "*", "volumes"): target_key,
    ("services", "*", "devices"): target_key,
    ("services", "*", "configs"): lambda node: target_key(node, "/."),
    ("services", "*", "secrets"): lambda node: target_key(node, "/run/secrets"),
    ("services", "*", "networks", "*", "aliases"): _word,
    ("networks", "*", "ipam", "config"): _subnet,
}


def merged(base: Node, over: Node, path: Path = ()) -> Node:
    """The value of two files, of which ``over`` is the later."""
    if over.tag == OVERRIDE or base.value is None:
        return over
    rule = tuple("*" if _is_name(path, index) else word for index, word in enumerate(path))
    if over.value is None and not path:
        return base
    if rule in _REPLACED:
        return over
    if rule in _PAIRS:
        return _mappings(_as_pairs(base), _as_pairs(over), path)
    if rule in _NAMES:
        return _mappings(_as_names(base), _as_names(over), path)
    if rule == ("services", "*", "extra_hosts"):
        base, over = _as_hosts(base), _as_hosts(over)
    if rule in _LISTS and not isinstance(over.value, dict) and not isinstance(base.value, dict):
        return _lists(base, over, _LISTS[rule])
    if rule == ("services", "*", "build"):
        base, over = _as_build(base), _as_build(over)
    if rule == ("services", "*", "logging") and _other_driver(base, over):
        return over
    return _values(base, over, path)


def _is_name(path: Path, index: int) -> bool:
    """Whether a word of a path is a name that the user chose."""
    if index == 1:
        return True
    return path[0] == "services" and index == 3 and path[2] in ("networks", "ulimits")


def _values(base: Node, over: Node, path: Path) -> Node:
    if over.value is None:
        return over
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        return _mappings(base, over, path)
    if isinstance(base.value, list) and isinstance(over.value, list):
        return _lists(base, over, None)
    if isinstance(base.value, (dict, list)) or isinstance(over.value, (dict, list)):
        kinds = {"dict": "a mapping", "list": "a list"}
        kind = kinds.get(type(base.value).__name__, "a single value")
        hint = "write it in the same form, or put !override before it"
        raise over.failure(f"can't be merged with {kind} ({base.place.split(': ')[0]})", hint)
    return over


def _mappings(base: Node, over: Node, path: Path) -> Node:
    value = dict(base.value)
    for key, item in over.value.items():
        if item.tag == RESET:
            value.pop(key, None)
        elif key in value and (value[key].value is not None or item.value is None):
            value[key] = merged(value[key], item, (*path, key))
        else:
            value[key] = item
    return replace(over, value=value)


def _lists(base: Node, over: Node, key: Key | None) -> Node:
    items = [*one_or_more(base), *one_or_more(over)]
    if over.value is None:
        items = one_or_more(base)
    if key is None:
        return replace(over, value=items)
    by_key: dict[tuple[str, ...], Node] = {}
    for item in items:
        by_key[key(item)] = item
    return replace(over, value=list(by_key.values()))


def _as_pairs(node: Node) -> Node:
    return replace(node, value=pairs(node) if node.value is not None else {})


def _as_names(node: Node) -> Node:
    if node.value is None:
        return replace(node, value={})
    if not isinstance(node.value, list):
        return replace(node, value=mapping(node))
    return replace(node, value={text(item): replace(item, value=None) for item in node.value})


def _as_hosts(node: Node) -> Node:
    if not isinstance(node.value, dict):
        return node
    items = [
        replace(address, value=f"{name}={text(address)}")
        for name, item in node.value.items()
        for address in one_or_more(item)
    ]
    return replace(node, value=items)


def _as_build(node: Node) -> Node:
    return node if isinstance(node.value, dict) else replace(node, value={"context": node})


def _other_driver(base: Node, over: Node) -> bool:
    one, other = base.get("driver"), over.get("driver")
    return bool(one and other and one.value != other.value)


def settled(node: Node) -> Node:
    """The tree without values that !reset removes."""
    value = node.value
    if isinstance(value, dict):
        value = {key: settled(item) for key, item in value.items() if item.tag != RESET}
    elif isinstance(value, list):
        value = [settled(item) for item in value if item.tag != RESET]
    return replace(node, value=value, tag="")
