# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Contents of a sandbox's /etc/resolv.conf and /etc/hosts."""

from __future__ import annotations

import ipaddress
from typing import Mapping, Sequence

from .model import Interface

RESOLV_CONF = "/etc/resolv.conf"
# Where systemd-resolved lists the servers behind its stub on 127.0.0.53.
BEHIND_STUB = "/run/systemd/resolve/resolv.conf"
KEPT_KEYWORDS = ("search", "domain", "options")
LOCALHOST = ("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback")


def resolv_conf(servers: Sequence[str], sources: Sequence[str] = (RESOLV_CONF, BEHIND_STUB)) -> str:
    """The given servers, or those of the host that a sandbox can reach (no loopback address)."""
    lines = _read(sources[0])
    if not servers:
        for source in sources:
            lines = _read(source)
            servers = [server for server in _servers(lines) if not _is_loopback(server)]
            if servers:
                break
    kept = [line for line in lines if line.split()[0] in KEPT_KEYWORDS]
    return "".join(f"{line}\n" for line in [*(f"nameserver {item}" for item in servers), *kept])


def host_resolvers(sources: Sequence[str] = (RESOLV_CONF, BEHIND_STUB)) -> list[str]:
    return [server for source in sources for server in _servers(_read(source))]


def hosts_file(
    name: str,
    hostname: str,
    interfaces: Sequence[Interface],
    neighbours: Mapping[str, Sequence[Interface]],
    extra: Mapping[str, str],
) -> str:
    """The sandbox itself, its neighbours on shared networks, and ``extra`` (host name: address)."""
    own = " ".join(dict.fromkeys((hostname, name)))
    addresses = [address for interface in interfaces for address in interface.addresses]
    lines = [*LOCALHOST, *(f"{address}\t{own}" for address in addresses)]
    if not interfaces:
        lines.append(f"127.0.1.1\t{own}")
    shared = {interface.network for interface in interfaces}
    for neighbour in sorted(neighbours):
        if neighbour != name:
            lines += [
                f"{address}\t{neighbour}"
                for interface in neighbours[neighbour]
                if interface.network in shared
                for address in interface.addresses
            ]
    lines += [f"{address}\t{host}" for host, address in sorted(extra.items())]
    return "".join(f"{line}\n" for line in lines)


def _read(path: str) -> list[str]:
    """Lines with something in them besides a comment; none when there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            lines = [line.strip() for line in handle]
    except FileNotFoundError:
        return []
    return [line for line in lines if line and line[0] not in "#;"]


def _servers(lines: Sequence[str]) -> list[str]:
    words = [line.split() for line in lines]
    return [word[1] for word in words if word[0] == "nameserver" and len(word) > 1]


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True
