# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes hosts, resolv.conf and hostname of each sandbox; in place, as they are bind-mounted."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, FrozenSet, Iterable, Mapping, Sequence, Tuple

from .. import network, store
from ..kernel import files
from ..network import Interface, Network
from ..site import Site
from ..spec.netmode import HOST
from .record import Record

Files = Dict[str, bytes]
NAMES = ("hosts", "hostname", "resolv.conf")


@dataclass(frozen=True)
class Surroundings:
    """The neighbours in the files: networks, and sandboxes with their interfaces and names.

    ``views`` and ``resolvers`` keep the texts that sandboxes have in common.
    """

    networks: Mapping[str, Network]
    records: Mapping[str, Record]
    interfaces: Mapping[str, Sequence[Interface]]
    names: network.Names
    isolated: Collection[str]
    views: Dict[FrozenSet[str], network.View] = field(default_factory=dict)
    resolvers: Dict[Tuple[Any, ...], bytes] = field(default_factory=dict)


def surroundings(
    networks: Mapping[str, Network],
    records: Mapping[str, Record],
    interfaces: Mapping[str, Sequence[Interface]],
) -> Surroundings:
    isolated = {name for name, item in networks.items() if item.isolated}
    return Surroundings(networks, records, interfaces, names(records), isolated)


def names(records: Mapping[str, Record]) -> network.Names:
    aliases = {
        (name, item.name): item.aliases
        for name, record in records.items()
        for item in record.spec.networks
        if item.aliases
    }
    sharers: dict[str, list[str]] = {}
    for name in sorted(records):
        partner = records[name].spec.network_partner
        if partner:
            sharers.setdefault(partner, []).append(name)
    return network.Names(aliases, sharers)


def contents(record: Record, around: Surroundings) -> Files:
    """The files of a sandbox; one that shares another's network gets the lines of both."""
    spec = record.spec
    owner = around.records.get(spec.network_partner, record)
    hosts = network.hosts_file(
        record.name,
        spec.hostname,
        owner.interfaces,
        around.interfaces,
        {**dict(owner.spec.etc_hosts), **dict(spec.etc_hosts)},
        names=around.names,
        silent=around.isolated,
        views=around.views,
    )
    servers = spec.dns_servers or _servers(owner, around.networks)
    key = tuple(servers), tuple(network.families_of(owner.interfaces)), spec.network_mode == HOST
    if key not in around.resolvers:
        text = network.resolv_conf(key[0], families=key[1], in_host_network=key[2])
        around.resolvers[key] = text.encode()
    return {
        "hosts": hosts.encode(),
        "hostname": f"{spec.hostname}\n".encode(),
        "resolv.conf": around.resolvers[key],
    }


def warnings(records: Iterable[Record], networks: Mapping[str, Network]) -> list[str]:
    """Warnings about sandboxes that can reach none of their name servers."""
    groups: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = {}
    for record in records:
        if record.interfaces:
            families = network.families_of(record.interfaces)
            key = tuple(_servers(record, networks)), tuple(families)
            groups.setdefault(key, []).append(record.name)
    lines = []
    for (own, families), names in groups.items():
        whose = "their dns_servers" if own else "those of this host"
        unreachable = own or network.unreachable_resolvers(families=families)
        if unreachable and not network.own_servers(own, families):
            lines.append(
                f"no name server for {', '.join(sorted(names))}: sandboxes can't reach {whose} "
                f"({', '.join(unreachable)}); set dns_servers, of the sandbox or of its network, "
                "to an address of a family that it has"
            )
    return lines


def _servers(record: Record, networks: Mapping[str, Network]) -> Sequence[str]:
    """The sandbox's own servers, else those of its first network that names any."""
    if record.spec.dns_servers:
        return record.spec.dns_servers
    for interface in record.interfaces:
        known = networks.get(interface.network)
        if known and known.dns_servers:
            return known.dns_servers
    return ()


def outdated(site: Site, name: str, wanted: Files) -> list[str]:
    """Names of files that are missing or differ from ``wanted``."""
    directory, hint = site.sandbox(name).etc, "remove it; the next run makes it again"
    return [
        file
        for file, content in wanted.items()
        if store.read_bytes(f"{directory}/{file}", hint=hint) != content
    ]


def are_there(site: Site, name: str) -> bool:
    directory = site.sandbox(name).etc
    return all(os.path.exists(f"{directory}/{file}") for file in NAMES)


def write(site: Site, record: Record, wanted: Files) -> None:
    sandbox = site.sandbox(record.name)
    os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
    os.makedirs(sandbox.etc, mode=0o755, exist_ok=True)
    for file, content in wanted.items():
        _rewrite(f"{sandbox.etc}/{file}", content)


def _rewrite(path: str, content: bytes) -> None:
    """Write the text into the same inode, which is never empty in between.

    The owner is set each time, as a sandbox with SYS_ADMIN can make its mount writable.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o644)
        files.pwrite_all(fd, content, 0)
        os.ftruncate(fd, len(content))
    finally:
        os.close(fd)
