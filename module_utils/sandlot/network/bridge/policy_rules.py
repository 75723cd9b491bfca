# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The reach of sandboxes as nftables text: chains, sets and maps inside our inet table.

Each distinct list has one chain; maps lead from sandboxes to chains. Chains check the original
direction of a connection, whichever way a packet goes, so a connection that a new list forbids
stops.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Callable, Iterable, Mapping, Sequence, Tuple

from ...spec import grants
from ...spec.grants import granted_metadata, merged
from ..common.model import Interface, Network
from ..common.policy import Policy, reach
from . import nft

Pairs = Sequence[Tuple[Interface, Policy]]

# `ct original` has no value without an entry, and no rule below would match.
# Protocols are keywords of nft: it looks up all other names in /etc/protocols, if any.
# Bridged frames have the same bridge on both sides; `isolated` decides about those.
CHAINS = nft.tabbed(
    """\
    chain policy_forward {
        type filter hook forward priority -5; policy accept;
        iifname . oifname @neighbours accept
        iifname . oifname @isolated accept
        iifname @internal drop
        oifname @internal drop
        iifname @bridges goto restricted
        oifname @bridges goto restricted
    }
    chain restricted {
        ct state invalid,untracked drop
        ct original ip saddr vmap @egress4
        ct original ip6 saddr vmap @egress6
    }
    chain host_services {
        ct direction reply return
        meta l4proto { icmp, icmpv6 } return
        ct original ip saddr . ct original ip daddr vmap @host4
        ct original ip6 saddr . ct original ip6 daddr vmap @host6
        drop
    }
    chain host_answers {
        type filter hook output priority -5; policy accept;
        oifname @bridges ct direction reply meta l4proto { tcp, udp } goto answers
    }
    chain answers {
        ct original ip saddr . ct original ip daddr vmap @host4
        ct original ip6 saddr . ct original ip6 daddr vmap @host6
        drop
    }
    chain new_forward {
        type filter hook forward priority 5; policy accept;
        iifname @bridges ct state new jump limit_connections
    }
    chain new_input {
        type filter hook input priority 5; policy accept;
        iifname @bridges ct state new jump limit_connections
    }
    chain limit_connections {
        add @connections4 { ip saddr ct count over %(limit)d } drop
        add @connections6 { ip6 saddr ct count over %(limit)d } drop
    }
"""
)

# An ICMP error from outside belongs to a connection of ours; one from inside could carry anything.
EGRESS = nft.tabbed(
    """\
    chain egress_%(key)s {
        ct direction reply ct state related return
        meta l4proto tcp ct original ip daddr . ct original proto-dst @tcp4_%(key)s return
        meta l4proto udp ct original ip daddr . ct original proto-dst @udp4_%(key)s return
        ct original ip daddr @all4_%(key)s return
        meta l4proto tcp ct original ip6 daddr . ct original proto-dst @tcp6_%(key)s return
        meta l4proto udp ct original ip6 daddr . ct original proto-dst @udp6_%(key)s return
        ct original ip6 daddr @all6_%(key)s return
        drop
    }
"""
)

MIB = 1 << 20
FEWEST, MOST, PER_MIB = 1024, 32768, 2
SOURCES = 65535
DYNAMIC = "flags dynamic"
FAMILIES = (4, 6)
KINDS = {4: "ipv4_addr", 6: "ipv6_addr"}
ADDRESS: Mapping[int, Callable[[int], object]] = {
    4: ipaddress.IPv4Address,
    6: ipaddress.IPv6Address,
}


def connection_limit() -> int:
    """The connections one address may have open; the kernel sizes its own table by memory too.

    A power of two, so that a little more or less memory does not change the rules.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = max(1, memory // MIB * PER_MIB)
    return min(MOST, max(FEWEST, 1 << (fitting.bit_length() - 1)))


def render(
    networks: Mapping[str, Network], pairs: Pairs, addresses: Mapping[str, Iterable[str]]
) -> str:
    """The text of sets, maps and chains; ``addresses`` are those of names."""
    internal = [f'"{item.bridge}"' for item in networks.values() if item.internal]
    lists = {policy.egress_key: policy for dummy, policy in pairs if policy.egress is not None}
    services = {policy.host_key: policy for dummy, policy in pairs if policy.host_access}
    return "".join(
        (
            _block("set internal", "type ifname", internal),
            *(_family(pairs, version) for version in FAMILIES),
            *(_sets(key, lists[key], addresses) for key in sorted(lists)),
            *(EGRESS % {"key": key} for key in sorted(lists)),
            *(_services(key, services[key]) for key in sorted(services)),
            CHAINS % {"limit": connection_limit()},
        )
    )


def _family(pairs: Pairs, version: int) -> str:
    kind = KINDS[version]
    egress, host, granted = [], [], []
    for interface, policy in pairs:
        address = interface.address if version == 4 else interface.address6
        gateway = interface.gateway if version == 4 else interface.gateway6
        if not (address and gateway):
            continue
        if policy.egress is not None:
            egress.append(f"{address} : goto egress_{policy.egress_key}")
        if policy.host_access:
            host.append(f"{address} . {gateway} : goto host_{policy.host_key}")
        ranges = [item for item in granted_metadata(policy.egress) if item.version == version]
        spans = merged((int(item.network_address), int(item.broadcast_address)) for item in ranges)
        granted += [f"{address} . {_span(version, *span)}" for span in spans]
    return "".join(
        (
            _block(f"map egress{version}", f"type {kind} : verdict", egress),
            _block(f"map host{version}", f"type {kind} . {kind} : verdict", host),
            _block(f"set granted{version}", f"type {kind} . {kind}", granted, "flags interval"),
            _block(f"set connections{version}", f"type {kind}", [], f"size {SOURCES}", DYNAMIC),
        )
    )


def _sets(key: str, policy: Policy, addresses: Mapping[str, Iterable[str]]) -> str:
    text = ""
    for version in FAMILIES:
        allowed, kind = reach(policy, addresses, version), KINDS[version]
        for protocol, boxes in (("tcp", allowed.tcp), ("udp", allowed.udp)):
            elements = [
                f"{_span(version, low, high)} . {_ports(first, last)}"
                for low, high, first, last in boxes
            ]
            name = f"set {protocol}{version}_{key}"
            text += _block(name, f"type {kind} . inet_service", elements, "flags interval")
        ranges = [_span(version, *span) for span in allowed.ranges]
        text += _block(f"set all{version}_{key}", f"type {kind}", ranges, "flags interval")
    return text


def _ports(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _span(version: int, low: int, high: int) -> str:
    first, last = ADDRESS[version](low), ADDRESS[version](high)
    return str(first) if low == high else f"{first}-{last}"


def _services(key: str, policy: Policy) -> str:
    lines = []
    for protocol in grants.PROTOCOLS:
        services = (item for item in policy.host_access if item.protocol == protocol)
        ports = merged(span for item in services for span in item.ports)
        texts = [_ports(first, last) for first, last in ports]
        if texts:
            ports_of = f"meta l4proto {protocol} ct original proto-dst"
            lines.append(f"\t\t{ports_of} {{ {', '.join(texts)} }} accept\n")
    return f"\tchain host_{key} {{\n{''.join(lines)}\t\tdrop\n\t}}\n"


def _block(name: str, kind: str, elements: Iterable[str], *lines: str) -> str:
    ordered = sorted(elements)
    parts = [kind, *lines, *([f"elements = {{ {', '.join(ordered)} }}"] if ordered else [])]
    return f"\t{name} {{\n" + "".join(f"\t\t{part}\n" for part in parts) + "\t}\n"
