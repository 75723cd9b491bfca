# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads changes of nftables and of links that go away (nfnetlink, rtnetlink(7)).

Imported by the launcher: imports as little as possible.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import struct

from . import nlmsg
from .nlmsg import (
    ATTRIBUTE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
    messages,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Tuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
# RTNLGRP_LINK and NFNLGRP_NFTABLES as bits.
LINKS = 1 << 0
NFTABLES = 1 << 6
SUBSYSTEM = 10
INET = 1
NEWTABLE = 0
GETTABLE = 1
DELTABLE = 2
NEWGEN = 15
GETGEN = 16
RTM_DELLINK = 17
IFLA_IFNAME = 3
# The table's name in messages of all kinds, the number of the transaction in NEWGEN.
FIRST = 1
RECEIVE_SIZE = 1 << 17
SO_ATTACH_FILTER = 26
_FAMILY = 4
_IFINFO = 16
_TYPE_OFFSET = 4


def changes() -> _socket.socket:
    """A socket that receives each nftables transaction of this network namespace."""
    return _subscribed(NETLINK_NETFILTER, NFTABLES)


def departures() -> _socket.socket:
    """A socket that receives links which are deleted or leave their bridge, and nothing else."""
    sock = _subscribed(NETLINK_ROUTE, LINKS)
    # Filtered in the kernel, so that other messages wake nobody (bpf(4): ldh, jeq, ret). Filters
    # load numbers in network order.
    program = struct.pack(
        "=HBBIHBBIHBBIHBBI",
        *(0x28, 0, 0, _TYPE_OFFSET),
        *(0x15, 0, 1, _socket.htons(RTM_DELLINK)),
        *(0x06, 0, 0, 0xFFFFFFFF),
        *(0x06, 0, 0, 0),
    )
    buffer = ctypes.create_string_buffer(program)
    head = struct.pack("@HP", 4, ctypes.addressof(buffer))
    sock.setsockopt(_socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
    return sock


def _subscribed(protocol: int, groups: int) -> _socket.socket:
    kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    sock = _socket.socket(_socket.AF_NETLINK, kind, protocol)
    sock.bind((0, groups))
    return sock


def drained(sock: Optional[_socket.socket]) -> Iterator[bytes]:
    """Yield the waiting datagrams; OSError (ENOBUFS) when the kernel has dropped some."""
    while sock is not None:
        try:
            data = sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        yield data


def transactions(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """Yield (message, table) of each change, (NEWGEN, number of 4 bytes) after a transaction."""
    for kind, dummy, dummy, body in messages(data):
        if kind >> 8 == SUBSYSTEM:
            value = attributes(body, _FAMILY).get(FIRST)
            if value is not None:
                yield kind & 0xFF, value if kind & 0xFF == NEWGEN else value.rstrip(b"\0")


def departed(data: bytes) -> Iterator[bytes]:
    """Yield the names of links that went away."""
    for kind, dummy, dummy, body in messages(data):
        name = attributes(body, _IFINFO).get(IFLA_IFNAME) if kind == RTM_DELLINK else None
        if name is not None:
            yield name.rstrip(b"\0")


def generation() -> int:
    """The number of the latest transaction, 0 when the kernel has no nftables."""
    try:
        answer = _asked(GETGEN, b"")
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return 0
    for message, value in transactions(answer):
        if message == NEWGEN:
            return int.from_bytes(value, "big")
    return 0


def has_table(family: int, name: bytes) -> bool:
    length = ATTRIBUTE.size + len(name) + 1
    attribute = ATTRIBUTE.pack(length, FIRST) + name + bytes(1 + -length % 4)
    answer = _asked(GETTABLE, attribute, family)
    return any(message == NEWTABLE for message, dummy in transactions(answer))


def tables(family: int) -> List[bytes]:
    """Names of all tables of a family."""
    names: List[bytes] = []
    sock = _ask(GETTABLE, b"", family, NLM_F_DUMP)
    try:
        while True:
            for kind, dummy, dummy, body in messages(sock.recv(RECEIVE_SIZE)):
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return names
                name = attributes(body, _FAMILY).get(FIRST)
                names += [] if name is None else [name.rstrip(b"\0")]
    finally:
        sock.close()


def _asked(message: int, request: bytes, family: int = 0) -> bytes:
    sock = _ask(message, request, family)
    try:
        return sock.recv(RECEIVE_SIZE)
    finally:
        sock.close()


def _ask(message: int, request: bytes, family: int, flags: int = 0) -> _socket.socket:
    body = bytes((family, 0, 0, 0)) + request
    packed = nlmsg.message(SUBSYSTEM << 8 | message, NLM_F_REQUEST | flags, body)
    sock = _socket.socket(
        _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    try:
        sock.send(packed)
    except OSError:
        sock.close()
        raise
    return sock
