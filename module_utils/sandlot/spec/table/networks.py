# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of a network."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import addresses, grants, names, quantities, text
from ..option import Option
from ..text import refusal

DEFAULT_NAME = "default"
DEFAULT_SUBNET = "10.77.0.0/22"
MIN_MTU, MIN_MTU_IPV6, MAX_MTU = 576, 1280, 65535
DEFAULT_MTU = 1500  # the kernel's, for bridges and veth links


def _is_default_or_given(network: Any) -> None:
    if network.ipv4_subnet is None and network.name != DEFAULT_NAME:
        hint = f"give an IPv4 range such as {addresses.EXAMPLE4}"
        raise refusal("ipv4_subnet", None, f"is missing for network {network.name}", hint=hint)


def _needs_ipv6(network: Any) -> None:
    if network.ipv6_gateway is not None and network.ipv6_subnet is None:
        hint = f"give ipv6_subnet too, such as {addresses.EXAMPLE6}"
        raise refusal("ipv6_gateway", network.ipv6_gateway, "has no subnet to be in", hint=hint)


def _is_enough_for_ipv6(network: Any) -> None:
    if network.ipv6_subnet and network.mtu is not None and network.mtu < MIN_MTU_IPV6:
        hint = f"use {MIN_MTU_IPV6} or more, or leave out ipv6_subnet"
        raise refusal("mtu", network.mtu, "is too small for IPv6", hint=hint)


def _has_a_way_out(network: Any) -> None:
    if network.internal and network.egress:
        hint = "leave egress out, or set internal: false"
        problem = "has no meaning on an internal network"
        raise refusal("egress", list(network.egress), problem, hint=hint)


OPTIONS = (
    Option(
        "name",
        "str",
        names.declared_network,
        ["Name of the network, up to 63 lower-case letters, digits, C(_), C(.) and C(-)."],
        required=True,
    ),
    Option(
        "ipv4_subnet",
        "str",
        addresses.subnet4,
        [
            f"Range of addresses, for instance V({addresses.EXAMPLE4}).",
            f"Required unless the network is V({DEFAULT_NAME}), which has V({DEFAULT_SUBNET}).",
            "A range that overlaps a route of the host, another network, the address of the SSH "
            "client or of a resolver is refused.",
        ],
        check=_is_default_or_given,
    ),
    Option(
        "ipv4_gateway",
        "str",
        addresses.ipv4,
        ["Address of the host in this network; the first of the range unless given."],
    ),
    Option(
        "ipv6_subnet",
        "str",
        addresses.subnet6,
        [
            f"Range of IPv6 addresses, for instance V({addresses.EXAMPLE6}), which sandboxes of "
            "the network have beside the IPv4 ones. Without it the network has no IPv6, "
            "link-local or other.",
            "A range that overlaps a route of the host, another network, the address of the SSH "
            "client or of a resolver is refused.",
        ],
    ),
    Option(
        "ipv6_gateway",
        "str",
        addresses.ipv6,
        ["IPv6 address of the host in this network; the first of the range unless given."],
        check=_needs_ipv6,
    ),
    Option(
        "nat",
        "bool",
        text.flag,
        [
            "Whether traffic to the outside gets the host's address, in both families.",
            "Without it, the networks outside need a route to O(ipv4_subnet) and O(ipv6_subnet).",
        ],
        default=True,
    ),
    Option(
        "isolated",
        "bool",
        text.flag,
        [
            "Whether sandboxes of this network are kept from talking to each other, also by way "
            "of ports they publish, link-local addresses and multicast.",
        ],
        default=False,
    ),
    Option(
        "mtu",
        "int",
        partial(quantities.integer, minimum=MIN_MTU, maximum=MAX_MTU),
        [
            f"Largest packet; V({DEFAULT_MTU}) unless given. IPv6 needs {MIN_MTU_IPV6} or more.",
            "The bridge and both ends of each link have it; a change reaches running sandboxes.",
        ],
        check=_is_enough_for_ipv6,
    ),
    Option(
        "dns_servers",
        "list",
        addresses.any_addresses,
        [
            "Resolvers for sandboxes of this network that name none themselves.",
            "The host's own unless given, without those on a loopback address.",
        ],
        default=[],
        elements="str",
    ),
    Option(
        "internal",
        "bool",
        text.flag,
        [
            "Whether the network has no way out of the host and none in. Sandboxes reach each "
            "other and the services in O(host_access); publishing their ports is refused.",
            "It gives no default route. A sandbox on several networks uses the first that is not "
            "internal.",
        ],
        default=False,
    ),
    Option(
        "egress",
        "list",
        grants.egress,
        [
            "All that sandboxes of this network may reach beyond it; everything unless given, "
            "nothing if empty. A sandbox's own C(egress) replaces it.",
            "Entries are addresses and ranges (V(203.0.113.0/24), V(2001:db8::/32)), those with "
            "ports (V(198.51.100.7:443/tcp), V([2001:db8::/32]:80,8000-8010)), host names "
            "(V(deb.example.org:443)), ports anywhere (V(53/udp)), or V(dns).",
            "V(dns) is the sandbox's own name servers. Without a protocol, a port is one of TCP.",
            "They may also be mappings of C(to), C(ports) and C(protocol).",
            "Host names are resolved on the host, by each run and every 5 minutes. An address "
            "stays for an hour after it was last in an answer. A list with a name in it includes "
            "V(dns).",
            "Link-local and metadata addresses (169.254.0.0/16, fd00:ec2::254 and others) have to "
            "be listed by address; ranges that contain more and host names do not open them.",
        ],
        elements="raw",
        check=_has_a_way_out,
    ),
    Option(
        "host_access",
        "list",
        grants.host_access,
        [
            "Services of the host that sandboxes of this network reach, at the network's gateway "
            "address only, such as V(53/udp) or V(9100/tcp). A sandbox's own C(host_access) "
            "replaces it.",
        ],
        default=[],
        elements="raw",
    ),
)
