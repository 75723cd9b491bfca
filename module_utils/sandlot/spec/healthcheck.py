# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Healthchecks in docker's notation: the check, its times, and the target of a connection."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Sequence

from .option import Option, read
from .text import a_type, digits, line, mapping, refusal, sequence, text

ACTIONS = ("none", "restart")
NONE = ("NONE",)
KINDS = ("test", "tcp", "http")
LOOPBACK = "127.0.0.1"
_UNITS = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1000, "us": 1}
_DURATION = re.compile(r"".join(rf"(?:([0-9]{{1,12}}){unit})?" for unit in _UNITS), re.A)
_DURATION_HINT = "write it like 30s or 1m30s (h, m, s, ms, us)"
_TEST_HINT = 'write a string for a shell, or ["CMD", "PROGRAM", ...], ["CMD-SHELL", ...], ["NONE"]'
_TCP = re.compile(r"(?:(\[[^\]]*\]|[^:]*):)?([0-9]{1,5})", re.A)
_TCP_HINT = 'write a port, or "127.0.0.1:80", "localhost:80" or "[::1]:80"'
_HTTP = re.compile(r"http://(\[[^\]/]*\]|[^:/\[\]]*)(?::([0-9]{1,5}))?(/[!-~]*)?", re.A)
_HTTP_HINT = "write it like http://localhost:8080/health"
_LONGEST_PATH = 2000


@dataclass(frozen=True)
class Target:
    """The address and port that a check connects to; without a ``path`` it only connects."""

    text: str
    host: str
    address: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Healthcheck:
    """One of ``test``, ``tcp`` and ``http`` is set; times are in seconds."""

    test: tuple[str, ...] | None
    tcp: Target | None
    http: Target | None
    interval: float
    timeout: float
    retries: int
    start_period: float
    action: str

    @property
    def disabled(self) -> bool:
        return self.test == NONE

    @property
    def target(self) -> Target | None:
        """The target of the check, None for a command."""
        return self.tcp or self.http


def parse(option: str, value: Any, *, fields: Sequence[Option]) -> Healthcheck:
    """Parse a mapping of suboptions with exactly one of test, tcp and http."""
    check = Healthcheck(**read(fields, mapping(option, value), f"{option}."))
    kinds = [kind for kind in KINDS if getattr(check, kind) is not None]
    if len(kinds) != 1:
        problem = f"has {' and '.join(kinds)}" if kinds else "does not say what is checked"
        raise refusal(option, value, problem, hint=f"give it exactly one of {', '.join(KINDS)}")
    return check


def dump(check: Healthcheck | None, *, fields: Sequence[Option]) -> dict[str, Any] | None:
    """The suboptions that differ from their defaults."""
    if check is None:
        return None
    usual = {row.name: row.value(None) for row in fields}
    values = {row.name: getattr(check, row.name) for row in fields}
    given = {key: value for key, value in values.items() if value != usual[key]}
    return {key: _dumped(value) for key, value in given.items()}


def _dumped(value: Any) -> Any:
    if isinstance(value, float):
        return shown(value)
    if isinstance(value, Target):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def duration(option: str, value: Any, *, minimum: str, maximum: str) -> float:
    """Parse docker's notation of a duration; seconds."""
    if not isinstance(value, str):
        problem = f"is {a_type(value)}, not a duration with a unit"
        raise refusal(option, value, problem, hint=_DURATION_HINT)
    micro = _microseconds(value)
    if micro is None:
        raise refusal(option, value, "is not a duration", hint=_DURATION_HINT)
    if not (_microseconds(minimum) or 0) <= micro <= (_microseconds(maximum) or 0):
        hint = f"use {minimum} to {maximum}"
        raise refusal(option, value, "is out of range", hint=hint)
    return micro / 1_000_000


def _microseconds(string: str) -> int | None:
    match = _DURATION.fullmatch(string)
    if not string or not match:
        return None
    return sum(int(n or 0) * scale for n, scale in zip(match.groups(), _UNITS.values()))


def shown(seconds: float) -> str:
    """A duration in docker's notation."""
    rest = round(seconds * 1_000_000)
    words = ""
    for unit, scale in _UNITS.items():
        count, rest = divmod(rest, scale)
        words += f"{count}{unit}" if count else ""
    return words or "0s"


def test(option: str, value: Any) -> tuple[str, ...]:
    """The list form of a command; its first word says how the rest is run."""
    if isinstance(value, str):
        words = ["CMD-SHELL", text(option, value)]
    else:
        items = enumerate(sequence(option, value))
        words = [text(f"{option}[{index}]", item) for index, item in items]
    first, rest = (words[0], words[1:]) if words else ("", [])
    good = {
        "NONE": not rest,
        "CMD-SHELL": len(rest) == 1 and bool(rest[0].strip()),
        "CMD": bool(rest and rest[0]),
    }
    if not good.get(first):
        raise refusal(option, value, "is not a test", hint=_TEST_HINT)
    return tuple(words)


def tcp(option: str, value: Any) -> Target:
    string = line(option, digits(value))
    match = _TCP.fullmatch(string)
    if not match:
        raise refusal(option, value, "is not a port", hint=_TCP_HINT)
    host = LOOPBACK if match[1] is None else match[1]
    address, port = _place(option, value, host, match[2], _TCP_HINT)
    return Target(string, host, address, port)


def http(option: str, value: Any) -> Target:
    string = line(option, value)
    match = _HTTP.fullmatch(string)
    if string.startswith("https:"):
        hint = "use test with a program of the image that knows TLS"
        raise refusal(option, value, "needs TLS, which init does not have", hint=hint)
    if not match or "#" in string or len(string) > _LONGEST_PATH:
        raise refusal(option, value, "is not an http:// URL", hint=_HTTP_HINT)
    host, given, path = match[1], match[2], match[3]
    address, port = _place(option, value, host, given or "80", _HTTP_HINT)
    return Target(string, host if given is None else f"{host}:{given}", address, port, path or "/")


def _place(option: str, value: Any, host: str, port: str, hint: str) -> tuple[str, int]:
    if not 1 <= int(port) <= 65535:
        raise refusal(option, value, "has a port out of range", hint="ports go from 1 to 65535")
    address = _address(host)
    if not address:
        problem = "names no address: init looks up no names"
        raise refusal(option, value, problem, hint=hint)
    return address, int(port)


def _address(host: str) -> str:
    """The address behind a literal or localhost, "" for anything else."""
    if host == "localhost":
        return LOOPBACK
    bracketed = host.startswith("[")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return ""
    scoped = "%" in host
    return str(address) if (address.version == 6) is bracketed and not scoped else ""
