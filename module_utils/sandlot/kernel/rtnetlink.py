# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Builds requests that change links, addresses, routes and neighbours (rtnetlink(7))."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Any, Tuple, Union

from .netlink import (
    ADDRESS,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_LEARNING,
    IFLA_BRPORT_MODE,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    LINK,
    ROUTE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PRIORITY,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    WORD,
)
from .nlmsg import ATTRIBUTE

if TYPE_CHECKING:
    from .nlmsg import Message

# A type and its value; a tuple of attributes is nested.
Attribute = Tuple[int, Union[int, bytes, Tuple[Any, ...]]]

NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
RTM_DELLINK = 17
RTM_DELADDR = 21
RTM_DELROUTE = 25
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
IFLA_NET_NS_FD = 28
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
VETH_INFO_PEER = 1
NDA_DST = 1
NDA_LLADDR = 2
NUD_NOARP = 0x40  # a static entry of a bridge
NTF_MASTER = 0x04
IFA_F_NODAD = 0x02
RTA_PREFSRC = 7
RTN_UNICAST = 1
RTPROT_KERNEL, RTPROT_STATIC = 2, 4
RT_SCOPE_LINK = 253
# Matches routes of any scope in a deletion.
RT_SCOPE_NOWHERE = 255
_NEIGHBOUR = struct.Struct("=BxxxiHBB")


def packed(*attributes: Attribute) -> bytes:
    parts = []
    for kind, value in attributes:
        if isinstance(value, int):
            value = WORD.pack(value)
        elif isinstance(value, tuple):
            value = packed(*value)
        parts.append(ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value)
        parts.append(bytes(-len(value) % 4))
    return b"".join(parts)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def new_veth(
    outer: tuple[str, str], inner: tuple[str, str], *, master: int, netns: int, mtu: int
) -> Message:
    """A veth pair, each end with its name and MAC address; the inner one is in ``netns``, down.

    By default, the kernel makes a queue for each processor, 3 kB each, and uses one
    (veth_get_num_queues(), veth_init_queues() in its drivers/net/veth.c).
    """
    queues = ((IFLA_NUM_TX_QUEUES, 1), (IFLA_NUM_RX_QUEUES, 1))
    peer = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + packed(
        (IFLA_IFNAME, _name(inner[0])),
        (IFLA_ADDRESS, _mac(inner[1])),
        (IFLA_NET_NS_FD, netns),
        (IFLA_MTU, mtu),
        *queues,
    )
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP) + packed(
        (IFLA_IFNAME, _name(outer[0])),
        (IFLA_ADDRESS, _mac(outer[1])),
        (IFLA_MASTER, master),
        (IFLA_MTU, mtu),
        *queues,
        (IFLA_LINKINFO, ((IFLA_INFO_KIND, b"veth"), (IFLA_INFO_DATA, ((VETH_INFO_PEER, peer),)))),
    )
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, body


def _link(index: int, flags: int, change: int, *attributes: Attribute) -> Message:
    body = LINK.pack(socket.AF_UNSPEC, 0, index, flags, change) + packed(*attributes)
    return RTM_NEWLINK, 0, 0, body


def change_link(
    index: int,
    *,
    state: str = "",
    mtu: int = 0,
    address: str = "",
    master: int = 0,
    group: int = 0,
) -> Message:
    """Change what is given; ``state`` is "up" or "down"."""
    numbers = ((IFLA_MTU, mtu), (IFLA_MASTER, master), (IFLA_GROUP, group))
    attributes: list[Attribute] = [(kind, number) for kind, number in numbers if number]
    if address:
        attributes.append((IFLA_ADDRESS, _mac(address)))
    return _link(index, IFF_UP if state == "up" else 0, IFF_UP if state else 0, *attributes)


def delete_group(group: int) -> Message:
    return RTM_DELLINK, 0, 0, LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + packed((IFLA_GROUP, group))


def bridge_port(index: int, *, isolated: bool) -> Message:
    """An isolated port, or one in hairpin mode; it learns nothing."""
    port = (
        (IFLA_BRPORT_MODE, bytes([not isolated])),
        (IFLA_BRPORT_LEARNING, bytes(1)),
        (IFLA_BRPORT_ISOLATED, bytes([isolated])),
    )
    info = ((IFLA_INFO_SLAVE_KIND, b"bridge"), (IFLA_INFO_SLAVE_DATA, port))
    return _link(index, 0, 0, (IFLA_LINKINFO, info))


def static_entry(index: int, mac: str) -> Message:
    """An entry of the forwarding table of a port's bridge."""
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, NUD_NOARP, NTF_MASTER, 0)
    return RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND, 0, body + packed((NDA_LLADDR, _mac(mac)))


def delete_neighbour(index: int, address: str) -> Message:
    family, raw = _address(address)
    body = _NEIGHBOUR.pack(family, index, 0, 0, 0)
    return RTM_DELNEIGH, 0, 0, body + packed((NDA_DST, raw))


def _address(text: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return family, socket.inet_pton(family, text)


def set_address(index: int, address: str) -> Message:
    """Give a link an "address/prefix"; nobody else has it, so duplicates need no detection."""
    family, body = _interface_address(index, address, IFA_F_NODAD)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 0, body


def delete_address(index: int, address: str) -> Message:
    return RTM_DELADDR, 0, 0, _interface_address(index, address, 0)[1]


def _interface_address(index: int, address: str, flags_of_ipv6: int) -> tuple[int, bytes]:
    plain, dummy, prefix = address.partition("/")
    family, raw = _address(plain)
    flags = flags_of_ipv6 if family == socket.AF_INET6 else 0
    head = ADDRESS.pack(family, int(prefix), flags, 0, index)
    return family, head + packed((IFA_ADDRESS, raw), (IFA_LOCAL, raw))


def set_default_route(index: int, gateway: str) -> Message:
    family, raw = _address(gateway)
    body = _route(family, 0, RTPROT_STATIC) + packed((RTA_GATEWAY, raw), (RTA_OIF, index))
    return RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 0, body


def set_subnet_route(index: int, address: str) -> Message:
    """The route that the kernel makes with an address.

    IPv6 has no scope of a link, and chooses the source by itself.
    """
    subnet = ipaddress.ip_interface(address)
    family, raw = _address(str(subnet.network.network_address))
    attributes: list[Attribute] = [(RTA_DST, raw), (RTA_OIF, index)]
    if subnet.version == 4:
        attributes.append((RTA_PREFSRC, subnet.ip.packed))
    scope = RT_SCOPE_LINK if subnet.version == 4 else 0
    head = _route(family, subnet.network.prefixlen, RTPROT_KERNEL, scope)
    return RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 0, head + packed(*attributes)


def delete_default_route(index: int, via: str, metric: int) -> Message:
    """``via`` is the gateway, or the destination of a route without one.

    Without a gateway to match, the kernel takes the first one with this metric.
    """
    family, raw = _address(via.partition("/")[0])
    attributes: list[Attribute] = [(RTA_OIF, index), (RTA_PRIORITY, metric)]
    if "/" not in via:
        attributes.append((RTA_GATEWAY, raw))
    head = _route(family, 0, 0, RT_SCOPE_NOWHERE, kind=0)
    return RTM_DELROUTE, 0, 0, head + packed(*attributes)


def _route(
    family: int, prefix: int, protocol: int, scope: int = 0, kind: int = RTN_UNICAST
) -> bytes:
    return ROUTE.pack(family, prefix, 0, 0, RT_TABLE_MAIN, protocol, scope, kind, 0)
