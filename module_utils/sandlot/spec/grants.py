# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Entries of `egress` and `host_access`, the reach of a network or a sandbox.

The text of an entry is always the same, such as "198.51.100.7:80,443/tcp",
"[2001:db8::]:443/tcp", "deb.example.org:443/tcp", "53/udp" or "dns".
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Sequence, Tuple, Union

from .names import is_hostname
from .text import digits, line, mapping, refusal, sequence

DNS = "dns"
DNS_PORT = 53
PROTOCOLS = ("tcp", "udp")
MAX_GRANTS = 256
LAST_PORT = 65535

IPNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Ports = Tuple[Tuple[int, int], ...]
Grants = Tuple["Grant", ...]

_HINT = (
    'quote it and write "203.0.113.0/24", "198.51.100.7:443/tcp", "[2001:db8::/32]:443", '
    '"deb.example.org:443", "53/udp" or "dns"'
)
_SERVICE_HINT = 'quote it and write "53/udp", "9100/tcp" or "8000-8010/tcp"'
_SUFFIX = re.compile(r"(.*)/(tcp|udp)", re.I | re.S)
_PORTS = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*", re.ASCII)
_BRACKETED = re.compile(r"\[(?P<to>[^\]]*)\](?::(?P<ports>.*))?", re.S)


# Link-local addresses and well-known ones of cloud metadata services: a sandbox reaches them only
# when a list names them by address.
METADATA4 = (
    "100.100.100.200",  # Alibaba Cloud
    "168.63.129.16",  # Azure: the platform that runs the host
    "169.254.0.0/16",  # most others, and credentials of AWS ECS and EKS
    "192.0.0.192",  # Oracle Cloud Classic
)
_METADATA6 = (
    "fd00:ec2::254",  # AWS
    "fd00:ec2::23",  # AWS EKS Pod Identity
    "fd20:ce::254",  # Google Cloud
    "fd00:c1::a9fe:a9fe",  # Oracle Cloud
    "fd00:a9fe:a9fe::1",  # Akamai (Linode)
    "fd00:42::42",  # Scaleway
    "fd00:100::100:200",  # Alibaba Cloud
)
# Azure's name server has the same address, and its hosts have no other; port 53 stays open.
PLATFORM_DNS = "168.63.129.16"
_NAT64 = int(ipaddress.IPv6Address("64:ff9b::"))


def _by_nat64(text: str) -> str:
    """The addresses by which a NAT64 gateway would reach an IPv4 range (RFC 6052)."""
    four = ipaddress.IPv4Network(text)
    first = _NAT64 | int(four.network_address)
    return str(ipaddress.IPv6Network((first, 96 + four.prefixlen))).replace("/128", "")


METADATA6 = (*_METADATA6, *map(_by_nat64, METADATA4))
METADATA = tuple(ipaddress.ip_network(text) for text in (*METADATA4, *METADATA6))


@dataclass(frozen=True)
class Grant:
    """One entry; ``to`` is a range, a host name, "dns", or None for anywhere; no ports mean all."""

    to: IPNetwork | str | None
    protocol: str | None = None
    ports: Ports = ()

    @property
    def name(self) -> str | None:
        return self.to if isinstance(self.to, str) and self.to != DNS else None

    def __str__(self) -> str:
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        target = str(self.to or "")
        if self.to and not isinstance(self.to, str) and self.to.prefixlen == self.to.max_prefixlen:
            target = str(self.to.network_address)
        if not self.ports:
            return target
        bracketed = f"[{target}]" if ":" in target else target
        ranges = (str(a) if a == b else f"{a}-{b}" for a, b in self.ports)
        return f"{bracketed}{':' if target else ''}{','.join(ranges)}/{self.protocol}"


def egress(option: str, value: Any) -> Grants:
    """Entries in one notation and order, so that another notation is no change."""
    return _all(option, value, _egress_entry)


def host_access(option: str, value: Any) -> Grants:
    return _all(option, value, _service)


def _all(option: str, value: Any, entry: Callable[[str, Any], Grant]) -> Grants:
    items = sequence(option, value)
    if len(items) > MAX_GRANTS:
        hint = "write ranges instead of single addresses"
        raise refusal(option, value, f"has more than {MAX_GRANTS} entries", hint=hint)
    entries = {entry(f"{option}[{index}]", item) for index, item in enumerate(items)}
    return tuple(sorted(entries, key=str))


def shown(entries: Grants | None) -> list[str] | None:
    return None if entries is None else [str(entry) for entry in entries]


def _egress_entry(option: str, value: Any) -> Grant:
    if not isinstance(value, Mapping):
        return _from_text(option, value)
    fields = _fields(option, value, ("to", "ports", "protocol"), _HINT)
    to = _target(f"{option}.to", line(f"{option}.to", fields["to"])) if "to" in fields else None
    protocol, ports = _transport(option, fields)
    if to == DNS and ports:
        raise refusal(option, value, "has a port", hint='write just "dns"')
    if to is None and not ports:
        raise refusal(option, value, "allows nothing", hint="give `to`, `ports` or both")
    return Grant(to, protocol, ports)


def _service(option: str, value: Any) -> Grant:
    if isinstance(value, Mapping):
        fields = _fields(option, value, ("ports", "protocol"), _SERVICE_HINT)
        grant = Grant(None, *_transport(option, fields))
    else:
        grant = _from_text(option, value, _SERVICE_HINT)
    if grant.to is not None or not grant.ports:
        raise refusal(option, value, "is no port of this host", hint=_SERVICE_HINT)
    return grant


def _from_text(option: str, value: Any, hint: str = _HINT) -> Grant:
    entry = line(option, value)
    suffix = _SUFFIX.fullmatch(entry)
    rest, protocol = (suffix[1], suffix[2].lower()) if suffix else (entry, "tcp")
    target, ports = _split(rest)
    if suffix and not ports:
        hint = f'give ports too: "{rest}:1-{LAST_PORT}/{protocol}"'
        raise refusal(option, value, "has a protocol but no port", hint=hint)
    to = _target(option, target, hint) if target is not None else None
    if to == DNS:
        if ports:
            raise refusal(option, value, "has a port", hint='write just "dns"')
        return Grant(DNS)
    if ports is None:
        return Grant(to)
    return Grant(to, protocol, _ports(option, value, ports, hint))


def _split(text: str) -> tuple[str | None, str | None]:
    """Target and ports; either may be missing."""
    if _PORTS.fullmatch(text):
        return None, text
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        return bracketed["to"], bracketed["ports"]
    if text.count(":") != 1:
        return text, None
    target, dummy, ports = text.partition(":")
    return target, ports


def _fields(
    option: str, value: Mapping[str, Any], known: Sequence[str], hint: str
) -> dict[str, Any]:
    fields = mapping(option, value)
    for key in fields:
        if key not in known:
            problem = f"is none of {', '.join(known)}"
            raise refusal(f"{option}.{key}", fields[key], problem, hint=hint)
    return {key: item for key, item in fields.items() if item is not None}


def _transport(option: str, fields: Mapping[str, Any]) -> tuple[str | None, Ports]:
    """Protocol and ports of a mapping; a protocol alone means all its ports."""
    ports, protocol = fields.get("ports"), fields.get("protocol")
    if ports is None and protocol is None:
        return None, ()
    known = str(protocol or "tcp").lower()
    if known not in PROTOCOLS:
        hint = f"use {' or '.join(PROTOCOLS)}"
        raise refusal(f"{option}.protocol", protocol, "is an unknown protocol", hint=hint)
    if ports is None:
        return known, ((1, LAST_PORT),)
    path = f"{option}.ports"
    items = list(ports) if isinstance(ports, (list, tuple)) else [ports]
    text = ",".join(line(f"{path}[{index}]", digits(item)) for index, item in enumerate(items))
    return known, _ports(path, ports, text, 'write [80, "8000-8010"]')


def _ports(option: str, value: Any, text: str, hint: str) -> Ports:
    if not _PORTS.fullmatch(text):
        raise refusal(option, value, "has an invalid port", hint=hint)
    ranges = []
    for part in text.split(","):
        first, dummy, last = part.partition("-")
        ports = int(first), int(last or first)
        if not 1 <= ports[0] <= ports[1] <= LAST_PORT:
            hint = f"ports go from 1 to {LAST_PORT}, ranges upwards"
            raise refusal(option, value, "has a port out of range", hint=hint)
        ranges.append(ports)
    return merged(ranges)


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The fewest ranges that hold these numbers, in order."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _target(option: str, text: str, hint: str = _HINT) -> IPNetwork | str:
    if text == DNS:
        return DNS
    address = text.partition("/")[0]
    if ":" in text or re.fullmatch(r"[0-9./]*", text, re.ASCII):
        return _range(option, text, address, hint)
    name = text.lower()
    name = name[:-1] if name.endswith(".") else name
    # A last label of digits would be read as an IPv4 address by some resolvers.
    if not is_hostname(name, longest=253) or name.rpartition(".")[2].isdigit():
        raise refusal(option, text, "is no address, range, name, port or known word", hint=hint)
    return name


def _range(option: str, text: str, address: str, hint: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise refusal(option, text, f"is no address or range ({error})", hint=hint) from error
    # Python before 3.9.5 reads leading zeros as decimal, libc as octal.
    if "%" in text or (network.version == 4 and str(network.network_address) != address):
        raise refusal(option, text, "is no plain address or range", hint=hint)
    if network.network_address.is_unspecified and network.prefixlen == network.max_prefixlen:
        anywhere = "0.0.0.0/0" if network.version == 4 else "::/0"
        raise refusal(option, text, "is no destination", hint=f"for anywhere, write {anywhere}")
    return network


def is_metadata(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in item for item in METADATA)


def granted_metadata(entries: Iterable[Grant] | None) -> list[IPNetwork]:
    """Ranges of a list within the ranges that are closed by default."""
    targets = (entry.to for entry in entries or ())
    ranges = [to for to in targets if to is not None and not isinstance(to, str)]
    return [
        to
        for to in ranges
        if any(to.network_address in item and to.broadcast_address in item for item in METADATA)
    ]


def relaxations(egress: Grants | None, host_access: Grants | None) -> list[str]:
    """Entries that allow something beyond the default, as "option: value"."""
    special = [entry for entry in egress or () if granted_metadata([entry])]
    return [f"egress: {entry}" for entry in special] + [
        f"host_access: {entry}" for entry in host_access or ()
    ]
