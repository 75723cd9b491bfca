# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Announces a changed address or MAC address to neighbours (RFC 5227, section 2.3).

Without it, their caches send to the old place for some ten seconds.
"""

from __future__ import annotations

import socket
import struct

from ..common.model import Interface

_ETHERTYPE_ARP = 0x0806
_HEADER = struct.Struct("!6s6sH")
# ARP: Ethernet, IPv4, lengths of their addresses, request; sender and target.
_REQUEST = struct.Struct("!HHBBH6s4s6s4s")


def frame(item: Interface) -> bytes:
    mac, address = bytes.fromhex(item.mac.replace(":", "")), socket.inet_aton(item.address)
    header = _HEADER.pack(b"\xff" * 6, mac, _ETHERTYPE_ARP)
    return header + _REQUEST.pack(1, 0x0800, 6, 4, 1, mac, address, bytes(6), address)


def announce(item: Interface, link: str) -> None:
    """Announce an interface on a link: its own inside, or its bridge; ENETDOWN if that is down."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as sock:
        sock.bind((link, 0))
        sock.send(frame(item))
