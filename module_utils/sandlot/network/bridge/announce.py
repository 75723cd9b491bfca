# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Announces changed addresses to neighbours: RFC 5227, section 2.3; RFC 4861, section 7.2.6.

Without it, their caches send to the old place for some ten seconds.
"""

from __future__ import annotations

import socket
import struct

from ..common.model import Interface

_ETHERTYPE_ARP = 0x0806
_ETHERTYPE_IPV6 = 0x86DD
_HEADER = struct.Struct("!6s6sH")
# ARP: Ethernet, IPv4, lengths of their addresses, request; sender and target.
_REQUEST = struct.Struct("!HHBBH6s4s6s4s")
# IPv6: version, length, next header and hop limit, source and destination.
_IPV6 = struct.Struct("!IHBB16s16s")
# Neighbour advertisement: type, code, checksum, flags, target; option: type, length, address.
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")
_ICMPV6, _ADVERTISE, _OVERRIDE, _TARGET_LINK = 58, 136, 1 << 29, 2
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")


def frames(item: Interface) -> list[bytes]:
    """One frame for each address of an interface."""
    mac, address = bytes.fromhex(item.mac.replace(":", "")), socket.inet_aton(item.address)
    header = _HEADER.pack(b"\xff" * 6, mac, _ETHERTYPE_ARP)
    arp = header + _REQUEST.pack(1, 0x0800, 6, 4, 1, mac, address, bytes(6), address)
    return [arp, _advertisement(mac, item.address6)] if item.ipv6 else [arp]


def _advertisement(mac: bytes, text: str) -> bytes:
    address = socket.inet_pton(socket.AF_INET6, text)

    def message(checksum: int) -> bytes:
        return _ADVERTISEMENT.pack(
            *(_ADVERTISE, 0, checksum, _OVERRIDE, address),
            *(_TARGET_LINK, 1, mac),
        )

    # The checksum covers a pseudo-header, RFC 8200, section 8.1.
    pseudo = address + _ALL_NODES + struct.pack("!II", _ADVERTISEMENT.size, _ICMPV6)
    body = message(_checksum(pseudo + message(0)))
    header = _HEADER.pack(b"\x33\x33" + _ALL_NODES[-4:], mac, _ETHERTYPE_IPV6)
    return header + _IPV6.pack(6 << 28, len(body), _ICMPV6, 255, address, _ALL_NODES) + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def opened() -> socket.socket:
    """A socket for announcements, in the thread's network namespace; it receives nothing."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def send(sock: socket.socket, item: Interface, link: str) -> None:
    """Announce an interface on a link: its own inside, or its bridge; ENETDOWN if that is down."""
    for frame in frames(item):
        sock.sendto(frame, (link, 0))
