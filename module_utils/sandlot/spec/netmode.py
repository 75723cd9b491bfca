# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""network_mode: whose network namespace a sandbox is in."""

from __future__ import annotations

from typing import Any

from .names import sandbox_name
from .text import line, refusal

BRIDGE, NONE, HOST = "bridge", "none", "host"
# With these the sandbox has a network namespace of its own, which its user namespace owns.
OWN = (BRIDGE, NONE)
_SANDBOX, _PATH = "container:", "ns:"
_HINT = "use bridge, none, host, container:NAME or ns:PATH; networks go into the option networks"


def network_mode(option: str, value: Any) -> str:
    mode = line(option, value)
    if mode in (*OWN, HOST):
        return mode
    if mode.startswith(_SANDBOX):
        return _SANDBOX + sandbox_name(option, mode[len(_SANDBOX) :])
    if not mode.startswith(_PATH):
        raise refusal(option, value, "is not a network mode", hint=_HINT)
    path = mode[len(_PATH) :]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or not parts or ".." in parts:
        hint = "write it in full, like ns:/run/netns/vpn"
        raise refusal(option, path, "is not the absolute path of a namespace", hint=hint)
    if len(path.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise refusal(option, path, "is too long for a path", hint="shorten it")
    if parts[0] == "proc":
        hint = "pin its namespace first: ip netns attach NAME PID; then write ns:/run/netns/NAME"
        raise refusal(option, path, "names a process, and the next may get its id", hint=hint)
    return f"{_PATH}/{'/'.join(parts)}"


def kind(mode: str) -> str:
    """``bridge``, ``none``, ``host``, ``container`` or ``ns``."""
    return mode.partition(":")[0]


def partner(mode: str) -> str:
    """The sandbox whose network namespace is shared, "" for the other modes."""
    return mode[len(_SANDBOX) :] if mode.startswith(_SANDBOX) else ""


def pin(mode: str) -> str:
    """The path of ``ns:PATH``, "" for the other modes."""
    return mode[len(_PATH) :] if mode.startswith(_PATH) else ""
