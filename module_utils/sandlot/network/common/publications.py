# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Published ports: their targets, and conflicts with sandboxes, listeners and management."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Collection, Iterable, Iterator, Mapping, Sequence

from ...errors import SpecError
from .model import ANY, ANY6, Interface, Publication, by_family

if TYPE_CHECKING:
    from ...spec import PublishedPort

EVERYWHERE = {4: ANY, 6: ANY6}
SSH_PORT = 22
SERVERS = frozenset(("sshd", "dropbear"))
TCP_ESTABLISHED = "01"
LISTENING = {"tcp": "0A", "udp": "07"}
FREE_IT = "publish another host_port, or stop what holds it"


@dataclass(frozen=True)
class Socket:
    protocol: str
    address: str
    port: int
    state: str
    peer: str
    inode: int = 0


def publications(
    sandbox: str, interfaces: Sequence[Interface], ports: Iterable[PublishedPort]
) -> list[Publication]:
    """The published ports of a sandbox; they lead to its first interface of the family.

    Without a host address, a port is published in each family that the sandbox has.
    """
    ports = list(ports)
    if ports and not interfaces:
        raise SpecError(
            "published_ports",
            ports[0].host_port,
            f"can't be published: sandbox {sandbox} is on no network",
            hint="attach it to one with the option networks",
        )
    homes = by_family(interfaces)
    targets = {version: home.addresses[version == 6] for version, home in homes.items()}
    everywhere = [address for version, address in EVERYWHERE.items() if version in targets]
    return [
        Publication(
            sandbox, host_ip, port.host_port, port.protocol,
            _target(sandbox, port, host_ip, targets), port.port,
        )
        for port in ports
        for host_ip in ([port.host_ip] if port.host_ip else everywhere)
    ]  # fmt: skip


def _target(sandbox: str, port: PublishedPort, host_ip: str, targets: Mapping[int, str]) -> str:
    version = 6 if ":" in host_ip else 4
    if version in targets:
        return targets[version]
    raise SpecError(
        "published_ports",
        str(port),
        f"can't be published: sandbox {sandbox} has no IPv6 address for it to lead to",
        hint="give a network of the sandbox an ipv6_subnet, or bind an IPv4 address",
    )


def check_publications(
    publications: Iterable[Publication],
    ours: Iterable[Publication],
    management: Iterable[int] = (),
) -> None:
    """SpecError("published_ports") for a port that is taken.

    ``publications`` are all ports that the host is to publish, ``ours`` those it publishes now. A
    port that is published already is not checked against listeners again: it works, and a later
    listener must not stop a deploy. ``management`` are the ports of the controller's connection to
    the host, which stay free whatever listens there.
    """
    desired = list(publications)
    _check_each_other(desired)
    published = {str(item) for item in ours}
    fresh = [item for item in desired if str(item) not in published]
    if fresh:
        _check_host(fresh, set(management))


def port_numbers(option: str, numbers: Iterable[int]) -> tuple[int, ...]:
    ports = tuple(numbers)
    for number in ports:
        if not 0 < number < 1 << 16:
            raise SpecError(option, number, "is no port", hint="give numbers from 1 to 65535")
    return ports


def _check_each_other(desired: list[Publication]) -> None:
    by_port: dict[tuple[str, int], list[Publication]] = {}
    for publication in desired:
        same = by_port.setdefault((publication.protocol, publication.host_port), [])
        for other in same:
            if publication.collides(other):
                raise SpecError(
                    "published_ports",
                    str(publication),
                    f"of sandbox {publication.sandbox} is published by sandbox {other.sandbox}",
                    hint="publish another host_port, or bind each to an address of its own",
                )
        same.append(publication)


def _check_host(publications: list[Publication], management: set[int]) -> None:
    listening = listeners()
    management = management | management_ports(listening)
    for publication in publications:
        if publication.protocol == "tcp" and publication.host_port in management:
            raise SpecError(
                "published_ports",
                str(publication),
                f"of sandbox {publication.sandbox} is the port this host is managed through",
                hint="publish another host_port",
            )
        for listener in listening:
            if _holds(listener, publication):
                where = f"{listener.address}:{listener.port}/{listener.protocol}"
                by = holder(listener)
                where += f", {by}" if by else ""
                problem = f"of sandbox {publication.sandbox} is taken by a listener on {where}"
                raise SpecError("published_ports", str(publication), problem, hint=FREE_IT)


def _holds(listener: Socket, publication: Publication) -> bool:
    if (listener.protocol, listener.port) != (publication.protocol, publication.host_port):
        return False
    # A socket bound to :: takes IPv4 too, unless it is IPV6_V6ONLY, which /proc does not show.
    if listener.address == ANY6:
        return True
    if (":" in listener.address) != (publication.version == 6):
        return False
    return publication.everywhere or listener.address in (ANY, publication.host_ip)


def management_ports(listeners: Iterable[Socket]) -> set[int]:
    """The port of the present SSH session, the ports of SSH servers, and 22 if in use.

    Become methods drop the session's variables, so the ports of servers count too.
    """
    servers = server_sockets()
    ports = {
        item.port
        for item in listeners
        if item.protocol == "tcp" and (item.port == SSH_PORT or item.inode in servers)
    }
    session = os.environ.get("SSH_CONNECTION", "").split()
    if len(session) == 4 and session[3].isdigit():
        ports.add(int(session[3]))
    return ports


def server_sockets() -> set[int]:
    """Inodes of the open sockets of this host's SSH servers."""
    held = _held_sockets(SERVERS)
    return {inode for dummy, inodes in held for inode in inodes}


def holder(listener: Socket) -> str:
    """The program that holds a socket, as "nginx (pid 12)"; "" if none is found."""
    return next((who for who, inodes in _held_sockets() if listener.inode in inodes), "")


def _held_sockets(programs: Collection[str] = ()) -> Iterator[tuple[str, set[int]]]:
    """Processes of the named programs, by default of all, with the inodes of their sockets."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as handle:
                name = handle.read().strip()
            if programs and name not in programs:
                continue
            inodes = set(_socket_inodes(f"/proc/{pid}/fd"))
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        except PermissionError:  # in a container, not even root may look into all processes
            continue
        yield f"{name} (pid {pid})", inodes


def _socket_inodes(descriptors: str) -> Iterator[int]:
    for fd in os.listdir(descriptors):
        with contextlib.suppress(FileNotFoundError):  # it is closed
            link = os.readlink(f"{descriptors}/{fd}")
            if link.startswith("socket:["):
                yield int(link[8:-1])


def management_peers() -> set[str]:
    """Addresses with a connection to a management port, as far as the host can tell."""
    session = os.environ.get("SSH_CONNECTION", "").split()
    peers = {session[0]} if len(session) == 4 else set()
    open_sockets = list(sockets())
    ports = management_ports(
        item for item in open_sockets if item.state == LISTENING[item.protocol]
    )
    for item in open_sockets:
        if item.protocol == "tcp" and item.state == TCP_ESTABLISHED and item.port in ports:
            peers.add(item.peer)
    return peers


def listeners() -> list[Socket]:
    return [item for item in sockets() if item.state == LISTENING[item.protocol]]


def sockets() -> Iterator[Socket]:
    """Sockets of this network namespace, from /proc/net."""
    for protocol in LISTENING:
        for suffix in ("", "6"):
            yield from _table(protocol, f"/proc/net/{protocol}{suffix}")


def _table(protocol: str, path: str) -> Iterator[Socket]:
    try:
        with open(path, encoding="ascii") as handle:
            lines = handle.readlines()[1:]
    except FileNotFoundError:  # a kernel booted with ipv6.disable=1
        return
    for line in lines:
        words = line.split()
        local, remote, state = words[1:4]
        address, dummy, port = local.partition(":")
        peer = remote.partition(":")[0]
        inode = int(words[9])
        yield Socket(protocol, _address(address), int(port, 16), state, _address(peer), inode)


def _address(text: str) -> str:
    """Parse an address from /proc/net, whose words are in host byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if raw.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)
