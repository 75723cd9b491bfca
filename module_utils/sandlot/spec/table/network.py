# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of networks, ports and names."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...plan import Change
from .. import addresses, grants, names
from ..option import Option, records, strings
from ..values import Attachment

_NETWORK_FIELDS = (
    Option(
        "name",
        "str",
        names.network_name,
        ["Name of a network of the host."],
        required=True,
    ),
    Option(
        "ipv4_address",
        "str",
        addresses.interface_address,
        [
            "The sandbox's IPv4 address on this network, without a prefix.",
            "Without it, a free address is chosen once and kept.",
        ],
    ),
    Option(
        "ipv6_address",
        "str",
        addresses.interface_address6,
        [
            "The sandbox's IPv6 address on this network, without a prefix.",
            "Without it, a free address is chosen once and kept if the network has IPv6.",
        ],
    ),
    Option(
        "mac_address",
        "str",
        addresses.mac,
        ["The interface's unicast MAC address. Without it, one is made from the sandbox's name."],
    ),
)


def _networks(option: str, value: Any) -> tuple[Attachment, ...]:
    items = records(option, value, fields=_NETWORK_FIELDS, make=Attachment)
    return addresses.attachments(option, items)


def _dump_networks(items: tuple[Attachment, ...]) -> list[dict[str, Any]]:
    return [{key: x for key, x in vars(item).items() if x is not None} for item in items]


def _dump_grants(items: tuple[str, ...] | None) -> list[str] | None:
    return None if items is None else list(items)


OPTIONS = (
    Option(
        "networks",
        "list",
        _networks,
        [
            "Networks the sandbox is on, one interface each, in this order.",
            "An empty list leaves it with a loopback interface only.",
        ],
        change=Change.RESTART,
        default=[{"name": "default"}],
        dump=_dump_networks,
        elements="dict",
        suboptions=_NETWORK_FIELDS,
    ),
    Option(
        "published_ports",
        "list",
        addresses.published_ports,
        [
            "Ports of the host that lead into the sandbox, each as "
            "V([HOST_IP:]HOST_PORT:PORT[/tcp|/udp]), with an IPv6 address in brackets.",
            "Without HOST_IP, on all IPv4 addresses of the host and, when the sandbox has an "
            "IPv6 address, on all its IPv6 addresses but V(::1). V(0.0.0.0) and V([::]) stand "
            "for those of one family.",
            "Two ranges of one length publish port by port, up to "
            f"{addresses.MAX_PORTS} ports in all. Quote them: YAML reads V(53:53) as a number.",
        ],
        change=Change.LIVE,
        default=[],
        dump=strings,
        elements="str",
    ),
    Option(
        "etc_hosts",
        "dict",
        partial(names.pairs, key=addresses.hosts_name, item=addresses.address_text),
        ["Lines added to C(/etc/hosts), as host name to IP address."],
        change=Change.LIVE,
        default={},
        dump=dict,
    ),
    Option(
        "dns_servers",
        "list",
        addresses.dns_servers,
        [
            f"Name servers, at most {addresses.MAX_SERVERS}.",
            "Without them, those of the first network are used.",
        ],
        change=Change.LIVE,
        default=[],
        dump=list,
        elements="str",
    ),
    Option(
        "egress",
        "list",
        grants.egress,
        [
            "All that the sandbox may reach beyond its own networks, instead of what its networks "
            "say; an empty list is nothing.",
            "Entries are those of C(egress) of a network, such as V(203.0.113.0/24), "
            "V(198.51.100.7:443/tcp), V(deb.example.org:443), V(53/udp) or V(dns).",
        ],
        change=Change.LIVE,
        dump=_dump_grants,
        elements="raw",
    ),
    Option(
        "host_access",
        "list",
        grants.host_access,
        [
            "Services of the host that the sandbox reaches at the gateway addresses of its "
            "networks, such as V(9100/tcp), instead of what its networks say.",
        ],
        change=Change.LIVE,
        dump=_dump_grants,
        elements="raw",
    ),
)
