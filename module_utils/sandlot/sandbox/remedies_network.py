# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Remedies of ports in use, names that are not resolved, and connections that are refused."""

from __future__ import annotations

import re

from . import surroundings
from .crash_case import Case

_UNKNOWN_NAME = re.compile(
    r"temporary failure in name resolution|name or service not known|bad address|no such host"
    r"|could not (?:resolve|translate) host|unknown host|host not found in|EAI_AGAIN|ENOTFOUND",
    re.I,
)
_HOST_NAME = re.compile(
    r"(?:host not found in upstream|bad address|host(?: ?name)?|lookup|EAI_AGAIN|ENOTFOUND"
    r"|unknown host):?,? ['\"]?([a-z0-9][a-z0-9.-]*)",
    re.I,
)
_PORT = re.compile(r"(?:port |[:\])])\s?(\d{1,5})\b")


def address(case: Case) -> str:
    lines = case.lines("address (already )?in use|EADDRINUSE")
    if not lines:
        return ""
    port = next((int(text) for text in _PORT.findall(lines[0]) if int(text) != 98), 0)
    mode, which = case.spec.network_mode, f" {port}" if port else ""
    if mode.startswith("container:"):
        other = mode.partition(":")[2]
        than = f" than {port}" if port else ""
        return f"it shares the ports of {other}: one of them has to use another{than}"
    if mode == "host":
        holder = surroundings.holder(port)
        by = f": {holder} has port{which}" if holder else ""
        return f"it shares the ports of the host{by}; it has to use another one"
    return f"two of its processes want the same port{which}"


def names(case: Case) -> str:
    lines = [line for line in reversed(case.facts.lines) if _UNKNOWN_NAME.search(line)]
    if not lines:
        return _unreachable(case)
    if _alone(case):
        return _alone(case)
    match = _HOST_NAME.search(lines[0])
    name = match[1].rstrip(".").lower() if match else ""
    other = surroundings.neighbour(case.site, name) if name else None
    ours = {item.name for item in case.spec.networks}
    if other and not ours & {item.name for item in other.spec.networks}:
        theirs = ", ".join(item.name for item in other.spec.networks) or "no network"
        return f"sandbox {name} is in {theirs} only: put both into one network"
    if name and other is None and "." not in name and name != "localhost":
        return f"no sandbox of this host is named {name}: deploy it, or name it in etc_hosts"
    return ""


def _unreachable(case: Case) -> str:
    return _alone(case) if case.says("network is (unreachable|down)|ENETUNREACH") else ""


def _alone(case: Case) -> str:
    if case.spec.network_mode == "none" or (case.spec.owns_network and not case.spec.networks):
        return "it has no network: give it networks, and leave out network_mode: none"
    return ""


def not_yet(case: Case) -> str:
    """A sandbox that is named in a refused connection, and that is not waited for."""
    waited = {item.name for item in case.spec.depends_on if item.condition == "healthy"}
    for line in case.lines("connection refused|ECONNREFUSED"):
        for word in re.findall(r"[a-zA-Z0-9][\w.-]*", line):
            other = surroundings.neighbour(case.site, word)
            if other and word not in waited and word != case.record.name:
                return (
                    f"{word} did not answer yet: give {word} a healthcheck, and this one "
                    f"depends_on: [{{name: {word}, condition: healthy}}]"
                )
    return ""
