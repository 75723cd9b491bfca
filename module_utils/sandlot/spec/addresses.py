# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Addresses and ports: checks each value by itself; ``network`` checks subnets and conflicts."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable, TypeVar

from .names import is_hostname
from .text import line, refusal, sequence, text, unique
from .values import Attachment, PublishedPort

MAX_PORTS = 1024
# MAXNS of resolv.h: resolvers ignore what follows.
MAX_SERVERS = 3
# Links of a sandbox are found by names derived from eth0 to eth15.
MAX_ATTACHMENTS = 16
MAX_ALIASES = 64
PROTOCOLS = ("tcp", "udp")

_PORT = re.compile(
    r"(?:(?P<ip>\[[^\]]*\]|[^:]*):)?(?P<host>[0-9]{1,5}(?:-[0-9]{1,5})?)"
    r":(?P<inside>[0-9]{1,5}(?:-[0-9]{1,5})?)(?:/(?P<protocol>[a-zA-Z]+))?"
)
_PORT_HINT = (
    'quote it and write "8080:80", "127.0.0.1:8080:80/tcp", "[2001:db8::1]:8080:80" '
    'or "8000-8010:8000-8010"'
)
EXAMPLE4 = "10.77.4.0/24"
EXAMPLE6 = "fd77:0:0:4::/64"
# Unspecified and mapped addresses, loopback; addresses of one link; multicast and reserved ones.
_UNFIT = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
    + ("::/8", "fe80::/9", "ff00::/8")
)
_N = TypeVar("_N", ipaddress.IPv4Network, ipaddress.IPv6Network)
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


def ipv4(option: str, value: Any) -> str:
    string = text(option, value)
    try:
        address = str(ipaddress.IPv4Address(string))
    except ValueError:
        address = ""
    # Python before 3.9.5 reads leading zeros as decimal, libc as octal.
    if not address or address != string:
        hint = "write it like 10.77.0.5, without a prefix"
        raise refusal(option, value, "is not an IPv4 address", hint=hint)
    return address


def interface_address(option: str, value: Any) -> ipaddress.IPv4Address:
    address = ipaddress.IPv4Address(ipv4(option, value))
    if address.is_multicast or address.is_loopback or address.is_reserved or int(address) < 1 << 24:
        hint = "choose one of the network's subnet"
        raise refusal(option, value, "can't be the address of an interface", hint=hint)
    return address


def interface_address6(option: str, value: Any) -> ipaddress.IPv6Address:
    address = ipaddress.IPv6Address(ipv6(option, value))
    special = address.is_multicast or address.is_link_local or address.is_site_local
    if special or int(address) >> 120 == 0:
        hint = "choose one of the network's ipv6_subnet"
        raise refusal(option, value, "can't be the address of an interface", hint=hint)
    return address


def ipv6(option: str, value: Any, hint: str = "write it like fd77::5, without a prefix") -> str:
    string = text(option, value)
    # Python takes any text as the scope of an IPv6 address.
    if "%" in string:
        raise refusal(option, value, "has a scope", hint="leave out the '%' and what follows")
    try:
        return str(ipaddress.IPv6Address(string))
    except ValueError as error:
        raise refusal(option, value, "is not an IPv6 address", hint=hint) from error


def address_text(option: str, value: Any) -> str:
    """An IPv4 or IPv6 address."""
    string = line(option, value)
    if ":" in string or "%" in string:
        return ipv6(option, value, "write it like 10.77.0.5 or fd00::5")
    return ipv4(option, value)


def any_address(option: str, value: Any) -> str:
    try:
        return str(ipaddress.ip_address(text(option, value)))
    except ValueError as error:
        hint = "write it like 9.9.9.9 or 2620:fe::fe"
        raise refusal(option, value, "is not an IP address", hint=hint) from error


def any_addresses(option: str, value: Any) -> tuple[str, ...]:
    items = enumerate(sequence(option, value))
    return tuple(any_address(f"{option}[{index}]", item) for index, item in items)


def subnet4(option: str, value: Any) -> ipaddress.IPv4Network:
    return _subnet(option, value, ipaddress.IPv4Network, "IPv4", EXAMPLE4)


def subnet6(option: str, value: Any) -> ipaddress.IPv6Network:
    return _subnet(option, value, ipaddress.IPv6Network, "IPv6", EXAMPLE6)


def _subnet(option: str, value: Any, make: Callable[[str], _N], kind: str, example: str) -> _N:
    hint = f"give a private range such as {example}"
    try:
        subnet = make(text(option, value))
    except ValueError as error:
        problem = f"is not an {kind} subnet ({error})"
        raise refusal(option, value, problem, hint=hint) from error
    # The network itself, the gateway and one sandbox; IPv4 also has a broadcast address.
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        raise refusal(option, value, "has no room for a sandbox", hint="use a larger range")
    ends = (subnet.network_address, subnet.broadcast_address)
    if any(end in unfit for end in ends for unfit in _UNFIT):
        raise refusal(option, value, "is not a range hosts can have addresses in", hint=hint)
    return subnet


def mac(option: str, value: Any) -> str:
    address = text(option, value).lower()
    if not _MAC.fullmatch(address) or address == "00:00:00:00:00:00":
        hint = "write it like 02:00:00:12:34:56"
        raise refusal(option, value, "is not a MAC address", hint=hint)
    if int(address[:2], 16) & 1:
        hint = "use an even first byte, such as 02"
        raise refusal(option, value, "is a multicast MAC address", hint=hint)
    return address


def attachments(option: str, items: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    unique(option, (item.name for item in items), what="network")
    macs = (item.mac_address for item in items if item.mac_address)
    unique(option, macs, what="mac_address")
    if len(items) > MAX_ATTACHMENTS:
        hint = f"keep {MAX_ATTACHMENTS}"
        raise refusal(option, len(items), "are too many networks for a sandbox", hint=hint)
    return items


def aliases(option: str, value: Any) -> tuple[str, ...]:
    """Aliases in lower case, as names are compared; sorted, so that another order is no change."""
    chosen = []
    hint = "choose another alias"
    for index, item in enumerate(sequence(option, value)):
        path = f"{option}[{index}]"
        name = hosts_name(path, item).lower()
        if name == "localhost" or name.startswith("ip6-"):
            raise refusal(path, item, "is what a host calls itself", hint=hint)
        if name.rpartition(".")[2].isdigit():
            raise refusal(path, item, "would be read as an address", hint=hint)
        chosen.append(name)
    unique(option, chosen, what="alias")
    if len(chosen) > MAX_ALIASES:
        raise refusal(option, len(chosen), "are too many aliases", hint=f"keep {MAX_ALIASES}")
    return tuple(sorted(chosen))


def published_ports(option: str, value: Any) -> tuple[PublishedPort, ...]:
    """Single ports, sorted, so that writing them in another order or as ranges is no change."""
    ports: list[PublishedPort] = []
    for index, item in enumerate(sequence(option, value)):
        ports += _published(f"{option}[{index}]", item)
        if len(ports) > MAX_PORTS:
            problem = f"makes more than {MAX_PORTS} ports"
            raise refusal(option, item, problem, hint="publish a smaller range")
    by_host_port: dict[tuple[str, int], list[PublishedPort]] = {}
    for port in ports:
        others = by_host_port.setdefault((port.protocol, port.host_port), [])
        if any(port.collides(other) for other in others):
            hint = "publish each host port once per address and protocol"
            raise refusal(option, str(port), "takes a host port that is given twice", hint=hint)
        others.append(port)
    return tuple(sorted(ports, key=lambda x: (x.protocol, x.host_port, x.host_ip, x.port)))


def _published(option: str, value: Any) -> list[PublishedPort]:
    match = _PORT.fullmatch(text(option, value))
    if not match:
        raise refusal(option, value, "is not a published port", hint=_PORT_HINT)
    address = "" if match["ip"] is None else _host_ip(option, match["ip"])
    protocol = (match["protocol"] or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise refusal(option, value, "has an unknown protocol", hint="use /tcp or /udp")
    host, inside = (_range(option, value, match[part]) for part in ("host", "inside"))
    if len(host) != len(inside):
        hint = "make both ranges the same length"
        raise refusal(option, value, "has ranges of different lengths", hint=hint)
    return [PublishedPort(address, ours, theirs, protocol) for ours, theirs in zip(host, inside)]


def _host_ip(option: str, value: str) -> str:
    if not value.startswith("["):
        return ipv4(option, value)
    string = ipv6(option, value[1:-1])
    address = ipaddress.IPv6Address(string)
    if address.is_loopback:
        hint = "bind 127.0.0.1, or no address and use an address of the host"
        raise refusal(option, value, "is where the kernel lets no forwarding begin", hint=hint)
    if address.ipv4_mapped or address.is_multicast or address.is_link_local:
        hint = "bind a global or unique local address of the host, [::] or an IPv4 address"
        raise refusal(option, value, "is no address to publish on", hint=hint)
    return string


def _range(option: str, value: Any, part: str) -> range:
    first, dummy, last = part.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        hint = "ports go from 1 to 65535, ranges upwards"
        raise refusal(option, value, "has a port out of range", hint=hint)
    return ports


def dns_servers(option: str, value: Any) -> tuple[str, ...]:
    items = enumerate(sequence(option, value))
    servers = tuple(address_text(f"{option}[{index}]", item) for index, item in items)
    unique(option, servers, what="server")
    if len(servers) > MAX_SERVERS:
        hint = f"keep {MAX_SERVERS}: resolvers ignore the rest"
        raise refusal(option, value, f"has more than {MAX_SERVERS} servers", hint=hint)
    return servers


def hosts_name(option: str, value: Any) -> str:
    name = line(option, value)
    if not is_hostname(name.replace("_", "x"), longest=253):
        hint = "use ASCII letters, digits, '-', '_' and '.'"
        raise refusal(option, value, "is not a host name", hint=hint)
    return name
