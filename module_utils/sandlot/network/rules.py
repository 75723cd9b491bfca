# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The nftables rules of a host, as text. Sandboxes appear in sets and maps only, never as rules.

Verdicts of ours are final where they drop; what another table drops stays dropped.
"""

from __future__ import annotations

from typing import Iterable, Mapping, Sequence

from ..paths import Paths
from ..plan import Operation
from . import nft
from .model import ANY, Interface, Network, Publication, owner_mark
from .observe import NetworkState

# Link-local addresses and the two well-known addresses of cloud metadata services.
METADATA = ("100.100.100.200", "169.254.0.0/16")

INET = """\
	chain raw {
		type filter hook prerouting priority raw; policy accept;
		iifname @bridges jump leaves_sandbox
	}
	chain leaves_sandbox {
		meta nfproto ipv6 drop
		ip saddr != @addresses drop
		ip daddr 127.0.0.0/8 drop
		ip daddr @metadata drop
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		ip daddr 127.0.0.0/8 return
		fib daddr type local jump publish
	}
	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local jump publish
	}
	chain publish {
		meta l4proto { tcp, udp } dnat ip to %(at)s map @bound_address : %(at)s map @bound_port
		meta l4proto { tcp, udp } dnat ip to %(any)s map @any_address : %(any)s map @any_port
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname @bridges ip saddr 127.0.0.0/8 masquerade
		oifname @bridges ip saddr @subnets ct status dnat masquerade
		oifname != @bridges ip saddr @translated masquerade
	}
	chain from_host {
		type filter hook output priority filter; policy accept;
		oifname @bridges icmp type redirect drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname @bridges goto to_host
	}
	chain to_host {
		icmp type redirect drop
		ct state established,related accept
		icmp type echo-request iifname . ip daddr @gateways accept
		drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname @bridges oifname @bridges goto between
		iifname @bridges goto leaving
		oifname @bridges goto entering
%(guard)s\t}
	chain between {
		iifname . oifname @isolated drop
		ct state established,related accept
		ct status dnat ip daddr . meta l4proto . th dport @services accept
		ct status dnat drop
		iifname . oifname @neighbours accept
		drop
	}
	chain leaving {
		ct state established,related accept
		ct status dnat drop
		ip daddr @subnets drop
	}
	chain entering {
		ct state established,related accept
		ct status dnat ip daddr . meta l4proto . th dport @services accept
		drop
	}
"""

# Forwarding was off before us: nobody but sandboxes gets any. Those of another root (a test
# beside a deployment) have rules of their own. Frames that a foreign bridge passes between its
# own ports come by here too when br_netfilter is on, and stay as they were.
GUARD = """\
		iifname "sandlot*" accept
		oifname "sandlot*" accept
		iifname "sl-*" accept
		oifname "sl-*" accept
		meta iifkind "bridge" meta oifkind "bridge" accept
		meta nfproto ipv4 drop
"""

# Address and port have a map each: nft 0.9.8 can't name a map that yields both.
KEYS = {"at": "ip daddr . meta l4proto . th dport", "any": "meta l4proto . th dport"}

BRIDGE = """\
	chain prerouting {
		type filter hook prerouting priority -300; policy accept;
		iifname @ports goto leaves_sandbox
	}
	chain leaves_sandbox {
		iifname . ether saddr . ip saddr @senders accept
		arp htype 1 arp ptype ip goto speaks_arp
		drop
	}
	chain speaks_arp {
		iifname . ether saddr . arp saddr ether . arp saddr ip @speakers accept
		drop
	}
	chain forward {
		type filter hook forward priority -200; policy accept;
		iifname @isolated drop
		oifname @isolated drop
		iifname @ports udp sport 67 udp dport 68 drop
	}
	chain input {
		type filter hook input priority -200; policy accept;
		iifname @ports ether type != { ip, arp } drop
	}
"""


def rules_operations(
    paths: Paths,
    networks: Mapping[str, Network],
    interfaces: Iterable[Interface],
    publications: Iterable[Publication],
    state: NetworkState,
) -> list[Operation]:
    """One operation that replaces our tables, or none when the kernel holds these rules.

    Apply it before networks and links come up: rules name links that need not exist yet.
    A host without networks has no tables.
    """
    if not networks:
        return nft.remove_operations(paths, state.tables)
    nft.require(paths, state.tables)
    interfaces = list(interfaces)
    text = render(paths, networks, interfaces, list(publications), guarded=state.forwarding.ours)
    if state.tables.hold(text):
        return []
    verb = "replace" if state.tables.present else "create"
    summary = f"{verb} nftables rules in table {paths.nft_table}"
    watched = nft.Watched(
        bridges=[network.bridge for network in networks.values()],
        links=[
            name
            for item in interfaces
            for name in (item.link, paths.shaper(item.sandbox, item.ifname))
        ],
    )
    return [Operation("network", summary, lambda: nft.apply(paths, text, watched))]


def render(
    paths: Paths,
    networks: Mapping[str, Network],
    interfaces: Sequence[Interface],
    publications: Sequence[Publication],
    *,
    guarded: bool,
) -> str:
    """Both tables, in an order that depends on nothing but the arguments' values."""
    plugged = [item for item in interfaces if item.network in networks]
    mark = f"\tchain {owner_mark(paths)} {{\n\t}}\n"
    sets = _sets(networks, plugged) + _maps(publications)
    inet = mark + sets + INET % {"guard": GUARD if guarded else "", **KEYS}
    bridge = mark + _bridge_sets(networks, plugged) + BRIDGE
    return "".join(
        f"table {family} {paths.nft_table} {{\n{body}}}\n"
        for family, body in zip(nft.FAMILIES, (inet, bridge))
    )


def _sets(networks: Mapping[str, Network], interfaces: Sequence[Interface]) -> str:
    all_networks = list(networks.values())
    pairs = {
        isolated: [_pair(item) for item in all_networks if item.isolated is isolated]
        for isolated in (True, False)
    }
    gateways = [f"{_quoted(item.bridge)} . {item.ipv4_gateway}" for item in all_networks]
    translated = [item.ipv4_subnet for item in all_networks if item.nat]
    return "".join(
        (
            _set("bridges", "ifname", [_quoted(item.bridge) for item in all_networks]),
            _set("subnets", "ipv4_addr", [item.ipv4_subnet for item in all_networks], ranges=True),
            _set("translated", "ipv4_addr", translated, ranges=True),
            _set("metadata", "ipv4_addr", METADATA, ranges=True),
            _set("gateways", "ifname . ipv4_addr", gateways),
            _set("isolated", "ifname . ifname", pairs[True]),
            _set("neighbours", "ifname . ifname", pairs[False]),
            _set("addresses", "ipv4_addr", [item.address for item in interfaces]),
        )
    )


def _maps(publications: Sequence[Publication]) -> str:
    services = {f"{item.address} . {item.protocol} . {item.port}" for item in publications}
    service = "ipv4_addr . inet_proto . inet_service"
    anywhere = {
        f"{item.protocol} . {item.host_port}": item for item in publications if item.host_ip == ANY
    }
    bound = {
        f"{item.host_ip} . {item.protocol} . {item.host_port}": item
        for item in publications
        if item.host_ip != ANY
    }
    return "".join(
        (
            _set("services", service, services),
            _targets("bound", service, bound),
            _targets("any", "inet_proto . inet_service", anywhere),
        )
    )


def _targets(name: str, key: str, publications: Mapping[str, Publication]) -> str:
    addresses = [f"{text} : {item.address}" for text, item in publications.items()]
    ports = [f"{text} : {item.port}" for text, item in publications.items()]
    return _map(f"{name}_address", f"{key} : ipv4_addr", addresses) + _map(
        f"{name}_port", f"{key} : inet_service", ports
    )


def _bridge_sets(networks: Mapping[str, Network], interfaces: Sequence[Interface]) -> str:
    senders = [f"{_quoted(item.link)} . {item.mac} . {item.address}" for item in interfaces]
    speakers = [
        f"{_quoted(item.link)} . {item.mac} . {item.mac} . {item.address}" for item in interfaces
    ]
    isolated = [_quoted(item.link) for item in interfaces if networks[item.network].isolated]
    return "".join(
        (
            _set("ports", "ifname", [_quoted(item.link) for item in interfaces]),
            _set("isolated", "ifname", isolated),
            _set("senders", "ifname . ether_addr . ipv4_addr", senders),
            _set("speakers", "ifname . ether_addr . ether_addr . ipv4_addr", speakers),
        )
    )


def _pair(network: Network) -> str:
    return f"{_quoted(network.bridge)} . {_quoted(network.bridge)}"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _set(name: str, kind: str, elements: Iterable[str], *, ranges: bool = False) -> str:
    flags = "\t\tflags interval\n" if ranges else ""
    return f"\tset {name} {{\n\t\ttype {kind}\n{flags}{_elements(elements)}\t}}\n"


def _map(name: str, kind: str, elements: Iterable[str]) -> str:
    return f"\tmap {name} {{\n\t\ttype {kind}\n{_elements(elements)}\t}}\n"


def _elements(elements: Iterable[str]) -> str:
    ordered = sorted(elements)
    return f"\t\telements = {{ {', '.join(ordered)} }}\n" if ordered else ""
