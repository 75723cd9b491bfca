# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Packs and parses messages and attributes of netlink(7), for kernel.netlink and the launcher."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, Tuple

    # Type, flags, sequence number, body.
    Message = Tuple[int, int, int, bytes]

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
# Length, type, flags, sequence number, port.
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF


def aligned(length: int) -> int:
    return (length + 3) & ~3


def message(kind: int, flags: int, body: bytes, number: int = 1) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, number, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """The messages in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, number, dummy = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, number, data[offset + HEADER.size : offset + length]
        offset += aligned(length)


def attributes(data: bytes, offset: int = 0) -> Dict[int, bytes]:
    """Attribute values by type; nested attributes are bytes to parse in turn."""
    # A look at a host parses some hundred for each sandbox.
    values, unpack, size = {}, ATTRIBUTE.unpack_from, ATTRIBUTE.size
    last = len(data) - size
    while offset <= last:
        length, kind = unpack(data, offset)
        if length < size:
            break
        values[kind & _TYPE_MASK] = data[offset + size : offset + length]
        offset += (length + 3) & ~3
    return values
