# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""hosts, resolv.conf and hostname of each sandbox; bind-mounted, so always written in place."""

from __future__ import annotations

import os
from typing import Dict, Mapping, Sequence

from .. import network
from ..network import Interface, Network
from ..paths import Paths
from ..record import Record

Files = Dict[str, bytes]


def contents(
    record: Record,
    networks: Mapping[str, Network],
    neighbours: Mapping[str, Sequence[Interface]],
) -> Files:
    name = record.spec.hostname
    hosts = network.hosts_file(
        record.name, name, record.interfaces, neighbours, dict(record.spec.etc_hosts)
    )
    return {
        "hosts": hosts.encode(),
        "hostname": f"{name}\n".encode(),
        "resolv.conf": network.resolv_conf(_servers(record, networks)).encode(),
    }


def _servers(record: Record, networks: Mapping[str, Network]) -> Sequence[str]:
    """The sandbox's own servers, else those of its first network that names any."""
    if record.spec.dns_servers:
        return record.spec.dns_servers
    for interface in record.interfaces:
        known = networks.get(interface.network)
        if known and known.dns_servers:
            return known.dns_servers
    return ()


def outdated(paths: Paths, name: str, wanted: Files) -> list[str]:
    """Names of files which differ from ``wanted`` or are missing."""
    directory = paths.sandbox(name).etc
    return [file for file, content in wanted.items() if _read(f"{directory}/{file}") != content]


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def write(paths: Paths, record: Record, wanted: Files) -> None:
    sandbox = paths.sandbox(record.name)
    os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
    os.makedirs(sandbox.etc, mode=0o755, exist_ok=True)
    for file, content in wanted.items():
        _rewrite(f"{sandbox.etc}/{file}", content)


def _rewrite(path: str, content: bytes) -> None:
    """Same inode, never empty in between: the new text first, then the end cut off.

    Host root's, as a sandbox that is granted SYS_ADMIN can make its mount of it writable.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o644)
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
    finally:
        os.close(fd)
