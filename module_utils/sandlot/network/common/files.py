# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The contents of a sandbox's /etc/resolv.conf and /etc/hosts."""

from __future__ import annotations

import ipaddress
from typing import Container, Mapping, Sequence

from .model import Interface
from .names import Names

# The host's file, and the servers behind the stubs of systemd-resolved and NetworkManager.
SOURCES = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
)
KEPT_KEYWORDS = ("search", "domain", "options")
_NO_NAMES = Names()
LOCALHOST = ("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback")


def resolv_conf(
    servers: Sequence[str], sources: Sequence[str] = SOURCES, *, in_host_network: bool = False
) -> str:
    """The text of resolv.conf: the given servers, else servers of the host within reach.

    Search domains and options come from the first source with such a server.
    """
    lines = _read(sources[0])
    if in_host_network:
        servers = servers or _servers(lines)
    for source in () if servers else sources:
        candidate = _read(source)
        servers = [server for server in _servers(candidate) if is_reachable(server)]
        if servers:
            lines = candidate
            break
    kept = [line for line in lines if line.split()[0] in KEPT_KEYWORDS]
    return "".join(f"{line}\n" for line in [*(f"nameserver {item}" for item in servers), *kept])


def host_resolvers(sources: Sequence[str] = SOURCES) -> list[str]:
    return [server for source in sources for server in _servers(_read(source))]


def unreachable_resolvers(sources: Sequence[str] = SOURCES) -> list[str]:
    """The host's name servers if a sandbox can reach none of them, else []."""
    servers = host_resolvers(sources)
    return [] if any(map(is_reachable, servers)) else list(dict.fromkeys(servers))


def hosts_file(
    name: str,
    hostname: str,
    interfaces: Sequence[Interface],
    neighbours: Mapping[str, Sequence[Interface]],
    extra: Mapping[str, str],
    *,
    names: Names = _NO_NAMES,
    silent: Container[str] = (),
) -> str:
    """The text of hosts: the sandbox, its neighbours, and ``extra`` (host name: address).

    A sandbox that shares another's network passes the other's ``interfaces``. Neighbours on
    ``silent`` networks are left out.
    """
    lines = [*LOCALHOST]
    for item in interfaces:
        own = dict.fromkeys((hostname, name, *names.of(item.sandbox, item.network)))
        lines += [f"{address}\t{' '.join(own)}" for address in item.addresses]
    if not interfaces:
        lines.append(f"127.0.1.1\t{' '.join(dict.fromkeys((hostname, name)))}")
    shared = {item.network for item in interfaces if item.network not in silent}
    itself = {name, *(item.sandbox for item in interfaces)}
    for neighbour in sorted(set(neighbours) - itself):
        lines += [
            f"{address}\t{' '.join(names.of(neighbour, item.network))}"
            for item in neighbours[neighbour]
            if item.network in shared
            for address in item.addresses
        ]
    lines += [f"{address}\t{host}" for host, address in sorted(extra.items())]
    return "".join(f"{line}\n" for line in lines)


def _read(path: str) -> list[str]:
    """The lines of a file, without empty ones and comments; [] if the file is missing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            lines = [line.strip() for line in handle]
    except FileNotFoundError:
        return []
    return [line for line in lines if line and line[0] not in "#;"]


def _servers(lines: Sequence[str]) -> list[str]:
    words = [line.split() for line in lines]
    return [word[1] for word in words if word[0] == "nameserver" and len(word) > 1]


def is_reachable(server: str) -> bool:
    """Whether a sandbox can reach a server; loopback and link-local addresses are the host's."""
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local)
