# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of networks, ports and names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...plan import Change
from .. import addresses, grants, names, netmode, text
from ..option import Option, Reach, records, strings
from ..text import refusal
from ..values import Attachment

if TYPE_CHECKING:
    from ..model import Spec

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
    Option(
        "aliases",
        "list",
        addresses.aliases,
        [
            "More names by which sandboxes on this network find this one.",
            "No other sandbox on the network may have them as name or alias.",
        ],
        default=[],
        dump=list,
        elements="str",
    ),
)


def _networks(option: str, value: Any) -> tuple[Attachment, ...]:
    items = records(option, value, fields=_NETWORK_FIELDS, make=Attachment)
    return addresses.attachments(option, items)


def _dump_networks(items: tuple[Attachment, ...]) -> list[dict[str, Any]]:
    rows = [{field.name: getattr(item, field.name) for field in _NETWORK_FIELDS} for item in items]
    given = [{key: x for key, x in row.items() if x not in (None, ())} for row in rows]
    return [
        {k: list(x) if isinstance(x, tuple) else str(x) for k, x in row.items()} for row in given
    ]


def _is_allowed(spec: Spec) -> None:
    mode = spec.network_mode
    if mode == netmode.HOST and not spec.allow_host_network:
        problem = "gives the sandbox the host's network"
        hint = "set allow_host_network: true if that is meant; it is then listed in relaxed"
        raise refusal("network_mode", mode, problem, hint=hint)
    if spec.network_partner == spec.name:
        hint = "name another sandbox, or use bridge"
        raise refusal("network_mode", mode, "names the sandbox itself", hint=hint)


def _needs_bridge(spec: Spec) -> None:
    mode = spec.network_mode
    if mode != netmode.BRIDGE and spec.networks:
        hint = "leave networks out, or set network_mode: bridge"
        given = ", ".join(item.name for item in spec.networks)
        raise refusal("networks", given, f"can't be had with network_mode {mode}", hint=hint)


def _needs_network(spec: Spec) -> None:
    if not spec.published_ports or spec.networks:
        return
    hint = "attach it to a network, or publish nothing"
    if spec.network_mode == netmode.HOST:
        hint = "leave it out: in the host's network its ports are the host's"
    elif spec.network_partner:
        hint = f"publish it at sandbox {spec.network_partner}, whose network it shares"
    first = str(spec.published_ports[0])
    raise refusal("published_ports", first, "leads to a sandbox without a network", hint=hint)


OPTIONS = (
    Option(
        "network_mode",
        "str",
        netmode.network_mode,
        [
            "Network namespace of the sandbox. V(bridge) is its own, attached to O(networks). "
            "V(none) is its own with a loopback interface only.",
            "V(container:NAME) shares that of another sandbox, which has to have its own.",
            "V(ns:PATH) joins the network namespace pinned at a path, such as one of "
            "C(ip netns add). V(host) joins the host's and needs O(allow_host_network).",
            "With the last three, nothing of sandlot's packet filter is between the sandbox and "
            "who else is in that namespace.",
        ],
        reaches={Reach.NAMESPACES, Reach.ROOT, Reach.NETWORK, Reach.HOSTS},
        key="netns",
        change=Change.RESTART,
        default=netmode.BRIDGE,
        check=_is_allowed,
    ),
    Option(
        "allow_host_network",
        "bool",
        text.flag,
        [
            "Whether O(network_mode) may put the sandbox into the host's network namespace, "
            "where it reaches every service that listens on the host's loopback interface or on "
            "an abstract unix socket.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        default=False,
    ),
    Option(
        "networks",
        "list",
        _networks,
        [
            "Networks the sandbox is on, one interface each. The first one leads to the outside "
            "and has the published ports.",
            "An empty list leaves it with a loopback interface only. Changes reach a running "
            "sandbox without a restart; an interface keeps its name as long as its network stays.",
        ],
        reaches={Reach.INTERFACES, Reach.HOSTS},
        change=Change.LIVE,
        default=[{"name": "default"}],
        dump=_dump_networks,
        elements="dict",
        suboptions=_NETWORK_FIELDS,
        check=_needs_bridge,
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
        reaches={Reach.NETWORK},
        change=Change.LIVE,
        default=[],
        dump=strings,
        elements="str",
        check=_needs_network,
    ),
    Option(
        "etc_hosts",
        "dict",
        partial(names.pairs, key=addresses.hosts_name, item=addresses.address_text),
        [
            "Lines added to C(/etc/hosts), as host name to IP address.",
            "A name of a neighbour, or of the sandbox itself, then has this address only.",
        ],
        reaches={Reach.HOSTS},
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
            "Without them, those of the first network that has any, else those of the host that "
            "can be reached from a sandbox.",
            "Servers of a family that the sandbox has no address of are left out.",
        ],
        reaches={Reach.HOSTS, Reach.NETWORK},
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
        reaches={Reach.INTERFACES},
        change=Change.LIVE,
        dump=grants.shown,
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
        reaches={Reach.INTERFACES},
        change=Change.LIVE,
        dump=grants.shown,
        elements="raw",
    ),
)
