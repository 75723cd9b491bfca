# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The nftables rules of a host, as text. Sandboxes appear in sets and maps only, never as rules.

Our drops are final, and so are those of other tables.
"""

from __future__ import annotations

from typing import Iterable, Mapping, Sequence

from ...plan import Operation
from ...site import Site
from ...spec.grants import METADATA4, METADATA6, PLATFORM_DNS
from ..common import policy, resolution
from ..common.desired import Desired
from ..common.model import Interface, Network, Publication, owner_mark
from . import jhash, nft, nft_delta, policy_rules
from .observe import BridgeState

INET = nft.tabbed(
    """\
    chain raw {
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges jump leaves_sandbox
    }
    chain leaves_sandbox {
        ip saddr != @addresses drop
        ip6 saddr != @addresses6 drop
        ip daddr 127.0.0.0/8 drop
        ip daddr %(dns)s meta l4proto { tcp, udp } th dport 53 return
        ip daddr @metadata ip saddr . ip daddr != @granted4 drop
        ip6 daddr @metadata6 ip6 saddr . ip6 daddr != @granted6 drop
    }
    chain prerouting {
        type nat hook prerouting priority -100; policy accept;
        ip daddr 127.0.0.0/8 return
        fib daddr type local jump publish
    }
    chain output {
        type nat hook output priority -100; policy accept;
        ip6 daddr ::1 return
        fib daddr type local jump publish
    }
    chain publish {
        meta l4proto { tcp, udp } dnat ip to %(at)s map @bound_address : %(at)s map @bound_port
        meta l4proto { tcp, udp } dnat ip to %(any)s map @any_address : %(any)s map @any_port
        meta l4proto { tcp, udp } dnat ip6 to %(at6)s map @bound6_address : %(at6)s map @bound6_port
        meta l4proto { tcp, udp } dnat ip6 to %(any)s map @any6_address : %(any)s map @any6_port
    }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        oifname @bridges ip saddr 127.0.0.0/8 masquerade
        oifname @bridges ip saddr @subnets ct status dnat masquerade
        oifname @bridges ip6 saddr @subnets6 ct status dnat masquerade
        oifname != @bridges ip saddr @translated masquerade
        oifname != @bridges ip6 saddr @translated6 masquerade
    }
    chain from_host {
        type filter hook output priority filter; policy accept;
        oifname @bridges icmp type redirect drop
        oifname @bridges icmpv6 type { nd-router-advert, nd-redirect } drop
    }
    chain input {
        type filter hook input priority filter; policy accept;
        iifname @bridges goto to_host
    }
    chain to_host {
        icmp type redirect drop
        icmpv6 type { nd-router-advert, nd-redirect } drop
        jump host_services
        ct state established,related accept
        icmp type echo-request iifname . ip daddr @gateways accept
        icmpv6 type echo-request iifname . ip6 daddr @gateways6 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
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
        ct status dnat ip6 daddr . meta l4proto . th dport @services6 accept
        ct status dnat drop
        iifname . oifname @neighbours accept
        drop
    }
    chain leaving {
        ct state established,related accept
        ct status dnat drop
        ip daddr @subnets drop
        ip6 daddr @subnets6 drop
    }
    chain entering {
        ct state established,related accept
        ct status dnat ip daddr . meta l4proto . th dport @services accept
        ct status dnat ip6 daddr . meta l4proto . th dport @services6 accept
        drop
    }
"""
)

# Forwarding was off before us, so only sandboxes get forwarded packets. Sandboxes of another root
# (a test run) have their own rules. With br_netfilter on, frames between ports of a foreign bridge
# pass here too, and are let through.
GUARD = nft.tabbed(
    """\
        iifname "sandlot*" accept
        oifname "sandlot*" accept
        iifname "sl-*" accept
        oifname "sl-*" accept
        meta iifkind "bridge" meta oifkind "bridge" accept
"""
)

# One map for addresses and one for ports: nft 0.9.8 can't name a map that yields both.
KEYS = {
    "at": "ip daddr . meta l4proto . th dport",
    "at6": "ip6 daddr . meta l4proto . th dport",
    "any": "meta l4proto . th dport",
    "dns": PLATFORM_DNS,
}

# Neighbours find each other by solicitations and advertisements. All other ICMPv6 messages about
# the link are for routers and multicast listeners, and a sandbox is neither.
#
# nft before 1.0.8 can't look up the address that an advertisement is about, but it can put a
# digest of it into the mark. Two of them, as one of 32 bits could be that of another address.
#
# A first fragment that ends before its transport header is dropped (RFC 7112): the header is in the
# next fragment, which no rule sees. Without the header, "@th" and "meta l4proto" match nothing.
BRIDGE = nft.tabbed(
    """\
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        iifname @ports goto leaves_sandbox
    }
    chain leaves_sandbox {
        ether type != { ip, ip6, arp } drop
        iifname . ether saddr . ip saddr @senders accept
        iifname . ether saddr . ip6 saddr @senders6 goto speaks_ipv6
        arp htype 1 arp ptype ip goto speaks_arp
        drop
    }
    chain speaks_ipv6 {
        icmpv6 type nd-neighbor-advert goto advertises
        icmpv6 type { 130-134, 137-138, 141-143, 148-149, 151-153 } drop
        meta l4proto != 255 frag frag-off != 0 accept
        @th,0,32 & 0x0 == 0x0 accept
        drop
    }
    chain advertises {
        meta mark set jhash @th,64,128 mod %(modulus)d seed 0x1
        iifname . meta mark != @advertised_1 drop
        meta mark set jhash @th,64,128 mod %(modulus)d seed 0x2
        iifname . meta mark != @advertised_2 drop
        meta mark set 0
        accept
    }
    chain speaks_arp {
        iifname . ether saddr . arp saddr ether . arp saddr ip @speakers accept
        drop
    }
    chain forward {
        type filter hook forward priority -200; policy accept;
        iifname @isolated drop
        oifname @isolated drop
        iifname @ports udp dport { 68, 546 } drop
    }
    chain input {
        type filter hook input priority -200; policy accept;
        iifname @ports ether type != { ip, ip6, arp } drop
    }
"""
)


def rules_operations(site: Site, desired: Desired, state: BridgeState) -> list[Operation]:
    """The operation that replaces our tables; [] when the kernel holds these rules.

    Without ``desired.addresses``, names are resolved now. A host without networks has no tables.
    """
    networks, interfaces = desired.networks, desired.interfaces
    if not networks:
        return nft.remove_operations(site, state.tables)
    if state.tables.installed or not desired.foreseen:
        nft.require(site, state.tables)
    policy.check(networks, interfaces, desired.publications)
    names = policy.names(networks, desired.policies)
    resolved = desired.addresses or resolution.current(site, names)
    text = _rendered(site, desired, state, resolved.seen)
    if state.tables.hold(text):
        return resolution.operations(site, resolved)
    nft.check_version()
    verb = "replace" if state.tables.present else "create"
    summary = f"{verb} nftables rules in table {site.nft_table}{resolution.describe(resolved)}"
    watched = nft.Watched(
        bridges=[network.bridge for network in networks.values()],
        links=[
            name
            for item in interfaces
            for name in (item.link, site.shaper(item.sandbox, item.ifname))
        ],
    )

    def apply() -> None:
        resolution.save(site, resolved)
        nft.apply(site, text, watched)

    return [Operation("network", summary, apply)]


def hold(site: Site, desired: Desired, state: BridgeState) -> bool:
    """Whether the kernel has our rules, and all that ``desired`` asks for is among them."""
    if not desired.networks:
        return not state.tables.present
    text = nft.in_force(site, state.tables)
    names = policy.names(desired.networks, desired.policies)
    seen = resolution.load(site) if names else {}
    return bool(text) and nft_delta.contains(text, _rendered(site, desired, state, seen))


def _rendered(
    site: Site, desired: Desired, state: BridgeState, addresses: Mapping[str, Iterable[str]]
) -> str:
    has_ipv6 = any(network.ipv6_subnet for network in desired.networks.values())
    guarded = {4: state.forwarding.ours, 6: has_ipv6 and state.forwarding6.ours}
    return render(
        site,
        desired.networks,
        desired.interfaces,
        desired.publications,
        guarded=[version for version, ours in guarded.items() if ours],
        policies=desired.policies,
        addresses=addresses,
    )


def render(
    site: Site,
    networks: Mapping[str, Network],
    interfaces: Sequence[Interface],
    publications: Sequence[Publication],
    *,
    guarded: Iterable[int],
    policies: Mapping[str, policy.SandboxPolicy] | None = None,
    addresses: Mapping[str, Iterable[str]] | None = None,
) -> str:
    """The text of both tables; equal arguments give equal text.

    ``guarded`` are the versions of IP whose forwarding is for sandboxes only.
    """
    plugged = [item for item in interfaces if item.network in networks]
    mark = f"\tchain {owner_mark(site)} {{\n\t}}\n"
    sets = _sets(networks, plugged)
    for suffix, version in (("", 4), ("6", 6)):
        family = [item for item in publications if item.version == version]
        sets += _family_maps(suffix, f"ipv{version}_addr", family)
    pairs = policy.effective(networks, plugged, policies or {})
    inet = mark + sets + policy_rules.render(networks, pairs, addresses or {})
    drops = [f"\t\tmeta nfproto ipv{version} drop\n" for version in guarded]
    inet += INET % {"guard": "".join([GUARD, *drops]) if drops else "", **KEYS}
    bridge = mark + _bridge_sets(networks, plugged) + BRIDGE % {"modulus": jhash.MODULUS}
    return "".join(
        f"table {family} {site.nft_table} {{\n{body}}}\n"
        for family, body in zip(nft.FAMILIES, (inet, bridge))
    )


def _sets(networks: Mapping[str, Network], interfaces: Sequence[Interface]) -> str:
    all_networks = list(networks.values())
    pairs = {
        isolated: [
            f"{_quoted(item.bridge)} . {_quoted(item.bridge)}"
            for item in all_networks
            if item.isolated is isolated
        ]
        for isolated in (True, False)
    }
    own = [item.address for item in interfaces]
    own6 = [text for item in _with_ipv6(interfaces) for text in (item.address6, item.link_local)]
    return "".join(
        (
            _set("bridges", "ifname", [_quoted(item.bridge) for item in all_networks]),
            _range_sets("", 4, all_networks),
            _set("metadata", "ipv4_addr", METADATA4, ranges=True),
            _range_sets("6", 6, all_networks),
            _set("metadata6", "ipv6_addr", METADATA6, ranges=True),
            _set("isolated", "ifname . ifname", pairs[True]),
            _set("neighbours", "ifname . ifname", pairs[False]),
            _set("addresses", "ipv4_addr", own),
            _set("addresses6", "ipv6_addr", own6),
        )
    )


def _range_sets(suffix: str, version: int, networks: Sequence[Network]) -> str:
    kind = f"ipv{version}_addr"
    pairs = [(item, each) for item in networks for each in item.ranges()]
    ranges = [(item, each) for item, each in pairs if each.version == version]
    subnets = [str(each.subnet) for dummy, each in ranges]
    translated = [str(each.subnet) for item, each in ranges if item.nat]
    gateways = [f"{_quoted(item.bridge)} . {each.gateway}" for item, each in ranges]
    return "".join(
        (
            _set(f"subnets{suffix}", kind, subnets, ranges=True),
            _set(f"translated{suffix}", kind, translated, ranges=True),
            _set(f"gateways{suffix}", f"ifname . {kind}", gateways),
        )
    )


def _with_ipv6(interfaces: Iterable[Interface]) -> list[Interface]:
    return [item for item in interfaces if item.ipv6]


def _family_maps(suffix: str, kind: str, publications: Sequence[Publication]) -> str:
    services = {f"{item.address} . {item.protocol} . {item.port}" for item in publications}
    service = f"{kind} . inet_proto . inet_service"
    anywhere = {
        f"{item.protocol} . {item.host_port}": item for item in publications if item.everywhere
    }
    bound = {
        f"{item.host_ip} . {item.protocol} . {item.host_port}": item
        for item in publications
        if not item.everywhere
    }
    return "".join(
        (
            _set(f"services{suffix}", service, services),
            _targets(f"bound{suffix}", service, kind, bound),
            _targets(f"any{suffix}", "inet_proto . inet_service", kind, anywhere),
        )
    )


def _targets(name: str, key: str, kind: str, publications: Mapping[str, Publication]) -> str:
    addresses = [f"{text} : {item.address}" for text, item in publications.items()]
    ports = [f"{text} : {item.port}" for text, item in publications.items()]
    return _map(f"{name}_address", f"{key} : {kind}", addresses) + _map(
        f"{name}_port", f"{key} : inet_service", ports
    )


def _bridge_sets(networks: Mapping[str, Network], interfaces: Sequence[Interface]) -> str:
    senders = [f"{_quoted(item.link)} . {item.mac} . {item.address}" for item in interfaces]
    addresses6 = [
        (item, address)
        for item in _with_ipv6(interfaces)
        for address in (item.address6, item.link_local)
    ]
    senders6 = [f"{_quoted(item.link)} . {item.mac} . {address}" for item, address in addresses6]
    advertised = {
        seed: [
            f"{_quoted(item.link)} . {jhash.of_address(address, seed):#010x}"
            for item, address in addresses6
        ]
        for seed in (1, 2)
    }
    speakers = [
        f"{_quoted(item.link)} . {item.mac} . {item.mac} . {item.address}" for item in interfaces
    ]
    isolated = [_quoted(item.link) for item in interfaces if networks[item.network].isolated]
    return "".join(
        (
            _set("ports", "ifname", [_quoted(item.link) for item in interfaces]),
            _set("isolated", "ifname", isolated),
            _set("senders", "ifname . ether_addr . ipv4_addr", senders),
            _set("senders6", "ifname . ether_addr . ipv6_addr", senders6),
            _set("speakers", "ifname . ether_addr . ether_addr . ipv4_addr", speakers),
            *(_set(f"advertised_{n}", "ifname . mark", advertised[n]) for n in advertised),
        )
    )


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
