# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The contents of a sandbox's /etc/resolv.conf and /etc/hosts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Collection, Container, Iterable, Mapping, Sequence, Tuple

from ...spec.grants import PLATFORM_DNS, is_metadata
from .model import Address, Interface, by_family
from .names import Names

# The host's file, and the servers behind the stubs of systemd-resolved and NetworkManager.
SOURCES = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
)
FAMILIES = (4, 6)
MAX_SERVERS = 3  # resolv.conf(5): resolvers read no more
KEPT_KEYWORDS = ("search", "domain", "options")
_NO_NAMES = Names()
# An address, and its host names.
Line = Tuple[str, Sequence[str]]
LOCALHOST: tuple[Line, ...] = (
    ("127.0.0.1", ("localhost",)),
    ("::1", ("localhost", "ip6-localhost", "ip6-loopback")),
)


def resolv_conf(
    own: Sequence[str],
    sources: Sequence[str] = SOURCES,
    *,
    families: Collection[int] = FAMILIES,
    in_host_network: bool = False,
) -> str:
    """The text of resolv.conf: ``own`` servers, else servers of the host within reach.

    Search domains and options come from the first source with such a server.
    """
    lines = _read(sources[0])
    servers = own_servers(own, families)
    if in_host_network:
        servers = list(own) or _servers(lines)
    for source in () if own or in_host_network else sources:
        candidate = _read(source)
        servers = _reachable(_servers(candidate), families)
        if servers:
            lines = candidate
            break
    kept = [line for line in lines if line.split()[0] in KEPT_KEYWORDS]
    return "".join(f"{line}\n" for line in [*(f"nameserver {item}" for item in servers), *kept])


def host_resolvers(sources: Sequence[str] = SOURCES) -> list[str]:
    return [server for source in sources for server in _servers(_read(source))]


def unreachable_resolvers(
    sources: Sequence[str] = SOURCES, families: Collection[int] = FAMILIES
) -> list[str]:
    """The host's name servers if a sandbox of ``families`` can reach none of them, else []."""
    servers = host_resolvers(sources)
    return [] if _reachable(servers, families) else list(dict.fromkeys(servers))


def own_servers(servers: Sequence[str], families: Collection[int]) -> list[str]:
    """The servers to use of those that a user lists; a loopback address is the sandbox's own."""
    return [
        server for server in servers if _parsed(server).is_loopback or _is_of(server, families)
    ][:MAX_SERVERS]


def families_of(interfaces: Sequence[Interface]) -> Collection[int]:
    """The families that a sandbox has addresses of; of a joined network, all may be."""
    return by_family(interfaces) or FAMILIES


@dataclass(frozen=True)
class View:
    """The lines of all sandboxes on some networks: by sandbox, and as one text.

    ``places`` has the part of each sandbox, as the file of a sandbox is the text without its own.
    """

    lines: Mapping[str, Sequence[Line]]
    text: str
    places: Mapping[str, tuple[int, int]]
    hosts: frozenset[str]

    def without(self, sandboxes: Collection[str], taken: Collection[str]) -> str:
        """The text without some sandboxes and without the host names in ``taken``."""
        if not self.hosts.isdisjoint(taken):
            return _text(
                (address, _without(taken, hosts))
                for sandbox, lines in self.lines.items()
                if sandbox not in sandboxes
                for address, hosts in lines
            )
        text = self.text
        for start, end in sorted(self.places[n] for n in sandboxes if n in self.places)[::-1]:
            text = text[:start] + text[end:]
        return text


def view(
    networks: Container[str], neighbours: Mapping[str, Sequence[Interface]], names: Names
) -> View:
    lines: dict[str, list[Line]] = {}
    places: dict[str, tuple[int, int]] = {}
    texts, length = [], 0
    for sandbox in sorted(neighbours):
        items = (item for item in neighbours[sandbox] if item.network in networks)
        lines[sandbox] = [
            (address, names.of(sandbox, item.network))
            for item in items
            for address in item.addresses
        ]
        texts.append(_text(lines[sandbox]))
        places[sandbox] = length, length + len(texts[-1])
        length += len(texts[-1])
    hosts = (host.lower() for known in lines.values() for dummy, all in known for host in all)
    return View(lines, "".join(texts), places, frozenset(hosts))


def hosts_file(
    name: str,
    hostname: str,
    interfaces: Sequence[Interface],
    neighbours: Mapping[str, Sequence[Interface]],
    extra: Mapping[str, str],
    *,
    names: Names = _NO_NAMES,
    silent: Container[str] = (),
    views: dict[frozenset[str], View] | None = None,
) -> str:
    """The text of hosts: the sandbox, its neighbours, and ``extra`` (host name: address).

    A sandbox that shares another's network passes the other's ``interfaces``. Neighbours on
    ``silent`` networks are left out. A name in ``extra`` has that address only. ``views`` keeps
    the lines of neighbours for the next sandbox on the same networks.
    """
    lines: list[Line] = [*LOCALHOST]
    for item in interfaces:
        own = (hostname, name, *names.of(item.sandbox, item.network))
        lines += [(address, own) for address in item.addresses]
    if not interfaces:
        lines.append(("127.0.1.1", (hostname, name)))
    shared = frozenset(item.network for item in interfaces if item.network not in silent)
    views = {} if views is None else views
    if shared not in views:
        views[shared] = view(shared, neighbours, names)
    itself = {name, *(item.sandbox for item in interfaces)}
    taken = {host.lower() for host in extra}
    before = _text((address, _without(taken, hosts)) for address, hosts in lines)
    behind = _text((address, [host]) for host, address in sorted(extra.items()))
    return before + views[shared].without(itself, taken) + behind


def _text(lines: Iterable[Line]) -> str:
    return "".join(f"{address}\t{' '.join(hosts)}\n" for address, hosts in lines if hosts)


def _without(taken: Container[str], hosts: Sequence[str]) -> list[str]:
    return [host for host in dict.fromkeys(hosts) if host.lower() not in taken]


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


def _reachable(servers: Sequence[str], families: Collection[int]) -> list[str]:
    """The host's servers that a sandbox can use; the rules close metadata addresses."""
    return [server for server in servers if _is_of(server, families) and not _is_closed(server)][
        :MAX_SERVERS
    ]


def _is_closed(server: str) -> bool:
    """Whether an address is the host's alone: loopback, link-local or metadata."""
    address = _parsed(server)
    metadata = is_metadata(str(address)) and server != PLATFORM_DNS
    return address.is_loopback or address.is_link_local or metadata


def _is_of(server: str, families: Collection[int]) -> bool:
    try:
        return _parsed(server).version in families
    except ValueError:
        return False


def _parsed(server: str) -> Address:
    return ipaddress.ip_address(server.partition("%")[0])
