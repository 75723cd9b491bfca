# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""network_mode: the owner of the network namespace that a sandbox uses."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Tuple

from .names import sandbox_name
from .text import line, refusal

BRIDGE, NONE, HOST = "bridge", "none", "host"
# Kinds that give the sandbox a network namespace of its own, which its user namespace owns.
OWN = (BRIDGE, NONE)
_SANDBOX, _PATH = "container:", "ns:"


def network_mode(option: str, value: Any) -> str:
    mode = line(option, value)
    word, colon, rest = mode.partition(":")
    dummy, parse = KINDS.get(word, ("", None))
    if word not in KINDS or bool(colon) is not bool(parse):
        *most, last = (form for form, dummy in KINDS.values())
        hint = f"use {', '.join(most)} or {last}; networks go into the option networks"
        raise refusal(option, value, "is not a network mode", hint=hint)
    return f"{word}:{parse(option, rest)}" if parse else mode


def _pinned(option: str, path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or not parts or ".." in parts:
        hint = "write it in full, like ns:/run/netns/vpn"
        raise refusal(option, path, "is not the absolute path of a namespace", hint=hint)
    if len(path.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise refusal(option, path, "is too long for a path", hint="shorten it")
    if parts[0] == "proc":
        hint = "pin its namespace first: ip netns attach NAME PID; then write ns:/run/netns/NAME"
        raise refusal(option, path, "names a process, and the next may get its id", hint=hint)
    return f"/{'/'.join(parts)}"


# The notation of each kind, and the parser of the text after its colon.
KINDS: Mapping[str, Tuple[str, Callable[[str, str], str] | None]] = {
    BRIDGE: ("bridge", None),
    NONE: ("none", None),
    HOST: ("host", None),
    "container": ("container:NAME", sandbox_name),
    "ns": ("ns:PATH", _pinned),
}


def kind(mode: str) -> str:
    """The key in KINDS of a validated mode."""
    return mode.partition(":")[0]


def partner(mode: str) -> str:
    """The sandbox whose network namespace is shared, "" for the other modes."""
    return mode[len(_SANDBOX) :] if mode.startswith(_SANDBOX) else ""


def pin(mode: str) -> str:
    """The path of ``ns:PATH``, "" for the other modes."""
    return mode[len(_PATH) :] if mode.startswith(_PATH) else ""
