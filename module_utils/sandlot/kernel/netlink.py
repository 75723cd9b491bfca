# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads links, IP addresses and routes of a network namespace, and sends changes (rtnetlink(7)).

A socket stays in the network namespace that its creator was in, even if the creator joins another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, Sequence

from .namespaces import CLONE_NEWNET, setns
from .nlmsg import (
    ATTRIBUTE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
    message,
    messages,
)

if TYPE_CHECKING:
    from .nlmsg import Message

NLM_F_ACK = 0x4
NLM_F_ECHO = 0x8
NLM_F_DUMP_INTR = 0x10
RTM_NEWLINK = 16
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_GETROUTE = 26
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_GROUP = 27
IFLA_EXT_MASK = 29
RTEXT_FILTER_SKIP_STATS = 8
IFLA_INFO_KIND = 1
IFLA_INFO_SLAVE_DATA = 5
IFLA_BRPORT_MODE = 4
IFLA_BRPORT_LEARNING = 8
IFLA_BRPORT_ISOLATED = 33
IFA_ADDRESS = 1
IFA_LOCAL = 2
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_TABLE = 15
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
FAMILIES = (socket.AF_INET, socket.AF_INET6)
IFF_UP = 1
RECEIVE_SIZE = 1 << 16
# A dump is repeated after pauses, the first and the longest of so many seconds.
DUMP_SECONDS = 30.0
PAUSES = (0.001, 0.1)
LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBi")
ROUTE = struct.Struct("=BBBBBBBBI")
WORD = struct.Struct("=I")


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    mac: str
    up: bool
    mtu: int
    kind: str = ""
    master: int = 0
    peer: int = 0
    group: int = 0
    hairpin: bool = False
    isolated: bool = False
    learning: bool = False


@dataclass(frozen=True)
class Address:
    index: int
    address: str

    @property
    def plain(self) -> str:
        return self.address.partition("/")[0]


@dataclass(frozen=True)
class Route:
    """A route; ``gateway`` is "" for a subnet on the link, ``table`` usually RT_TABLE_MAIN."""

    destination: str
    index: int
    gateway: str
    table: int
    metric: int = 0


@contextlib.contextmanager
def entered(path: str) -> Iterator[None]:
    """Enter the network namespace mounted at ``path``; leave it at the end of the block."""
    with opened(path) as target, opened("/proc/thread-self/ns/net") as origin:
        setns(target, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(origin, CLONE_NEWNET)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the namespace mounted at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def connect() -> socket.socket:
    """Open a socket for the requests below, in the caller's network namespace."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def links(sock: socket.socket) -> list[Link]:
    payload = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _skip_statistics()
    return [_link(body) for body in dump(sock, RTM_GETLINK, RTM_NEWLINK, payload)]


def link(sock: socket.socket, name: str) -> Link | None:
    """The link called ``name``, None when it does not exist."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return None
    payload = LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _skip_statistics()
    try:
        for kind, dummy, body in _messages(sock, RTM_GETLINK, NLM_F_REQUEST, payload):
            return _link(body) if kind == RTM_NEWLINK else None
    except OSError as error:
        if error.errno != errno.ENODEV:  # gone with its network namespace meanwhile
            raise
    return None


def addresses(sock: socket.socket) -> list[Address]:
    """IPv4 before IPv6."""
    payload = ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    present = []
    for body in _of_ip(dump(sock, RTM_GETADDR, RTM_NEWADDR, payload)):
        family, prefix, dummy, dummy, index = ADDRESS.unpack_from(body)
        values = attributes(body, ADDRESS.size)
        # IPv6 has a local address only if there is a peer.
        local = values[IFA_LOCAL] if IFA_LOCAL in values else values[IFA_ADDRESS]
        present.append(Address(index, f"{socket.inet_ntop(family, local)}/{prefix}"))
    return present


def routes(sock: socket.socket, only: int | None = None) -> list[Route]:
    """The routes of all tables or one, IPv4 before IPv6."""
    payload = ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    present = []
    for body in _of_ip(dump(sock, RTM_GETROUTE, RTM_NEWROUTE, payload)):
        family, prefix, table = body[0], body[1], body[4]
        if only not in (None, table):
            continue
        values = attributes(body, ROUTE.size)
        gateway = values.get(RTA_GATEWAY)
        nowhere = bytes(4 if family == socket.AF_INET else 16)
        destination = socket.inet_ntop(family, values.get(RTA_DST, nowhere))
        present.append(
            Route(
                destination=f"{destination}/{prefix}",
                index=_word(values, RTA_OIF),
                gateway=socket.inet_ntop(family, gateway) if gateway else "",
                table=_word(values, RTA_TABLE) or table,
                metric=_word(values, RTA_PRIORITY),
            )
        )
    return present


def _of_ip(bodies: list[bytes]) -> list[bytes]:
    """Messages of IP, by family; the kernel also sends those of MPLS and multicast routing."""
    return [body for family in FAMILIES for body in bodies if body[0] == family]


def _skip_statistics() -> bytes:
    return ATTRIBUTE.pack(8, IFLA_EXT_MASK) + WORD.pack(RTEXT_FILTER_SKIP_STATS)


def dump(sock: socket.socket, request: int, reply: int, payload: bytes) -> list[bytes]:
    """All replies to a dump; repeat it when the kernel reports a change during the dump.

    Others may plug and unplug links all the time, and a dump of many links takes several reads.
    """
    pause, longest = PAUSES
    deadline = time.monotonic() + DUMP_SECONDS
    while True:
        bodies = []
        interrupted = False
        for kind, flags, body in _messages(sock, request, NLM_F_REQUEST | NLM_F_DUMP, payload):
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind == reply:
                bodies.append(body)
        if not interrupted:
            return bodies
        if time.monotonic() >= deadline:
            problem = f"links and routes of this host changed all of {DUMP_SECONDS:.0f} seconds"
            raise InterruptedError(errno.EINTR, f"{problem} (netlink dump {request})")
        time.sleep(pause)
        pause = min(2 * pause, longest)


def get(sock: socket.socket, request: int, reply: int, payload: bytes) -> list[bytes]:
    """The replies to a request for one object; OSError when the kernel has no such object."""
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO
    bodies = _messages(sock, request, flags, payload)
    return [body for kind, dummy, body in bodies if kind == reply]


def change(sock: socket.socket, requests: Sequence[Message]) -> list[int]:
    """Send finished requests; the kernel's error for each one, 0 for success."""
    for number, (kind, flags, dummy, body) in enumerate(requests):
        sock.send(message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, body, number))
    codes = dict.fromkeys(range(len(requests)), -1)
    while -1 in codes.values():
        for kind, dummy, number, body in messages(sock.recv(RECEIVE_SIZE)):
            if kind == NLMSG_ERROR:
                codes[number] = -struct.unpack_from("=i", body)[0]
    return list(codes.values())


def _messages(
    sock: socket.socket, request: int, flags: int, payload: bytes
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, flags, body) of each reply, up to the last one."""
    sock.send(message(request, flags, payload))
    single = not flags & (NLM_F_DUMP | NLM_F_ACK)
    while True:
        for kind, answered, dummy, body in messages(sock.recv(RECEIVE_SIZE)):
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:  # 0 is an acknowledgement
                    raise OSError(code, f"netlink request {request}: {os.strerror(code)}")
                return
            yield kind, answered, body
            if kind == NLMSG_DONE or single:
                return


def _word(values: dict[int, bytes], kind: int) -> int:
    raw = values.get(kind)
    return WORD.unpack(raw)[0] if raw else 0


def _link(body: bytes) -> Link:
    dummy, dummy, index, flags, dummy = LINK.unpack_from(body)
    values = attributes(body, LINK.size)
    info = attributes(values.get(IFLA_LINKINFO, b""))
    master = _word(values, IFLA_MASTER)
    port = attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")) if master else {}
    return Link(
        index=index,
        name=values[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
        mac=values.get(IFLA_ADDRESS, b"").hex(":"),
        up=bool(flags & IFF_UP),
        mtu=_word(values, IFLA_MTU),
        kind=info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        master=master,
        peer=_word(values, IFLA_LINK),
        group=_word(values, IFLA_GROUP),
        hairpin=port.get(IFLA_BRPORT_MODE) == b"\1",
        isolated=port.get(IFLA_BRPORT_ISOLATED) == b"\1",
        learning=port.get(IFLA_BRPORT_LEARNING) == b"\1",
    )
