# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks, ports and names of a service."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

from .model import Json, Project, Service
from .nodes import Node
from .short import port
from .values import (
    boolean,
    integer,
    known,
    mapping,
    number_text,
    one_or_more,
    pairs,
    sequence,
    text,
)

DEFAULT = "default"
PREFIX = 26
_OWN = (
    *("aliases", "ipv4_address", "ipv6_address", "mac_address", "priority", "gw_priority"),
    *("link_local_ips", "interface_name", "driver_opts"),
)
_DECLARED = (
    *("name", "driver", "driver_opts", "ipam", "external", "internal", "enable_ipv4"),
    *("enable_ipv6", "attachable", "labels"),
)
_POOL = ("subnet", "gateway", "ip_range", "aux_addresses")
_DRIVER = "com.docker.network."
_PORT = ("target", "published", "protocol", "host_ip", "mode", "name", "app_protocol")


# -- modes and attachments


def networks(service: Service) -> None:
    mode = service.get("network_mode")
    given = service.get("networks")
    kind, dummy, other = text(mode).partition(":") if mode else ("bridge", "", "")
    if mode and kind not in ("bridge", "default"):
        if given:
            raise given.failure(f"contradicts network_mode: {text(mode)}", "keep one of them")
        _mode(service, mode, kind, other)
        return
    wanted = _wanted(given) if given else {DEFAULT: None}
    mac = service.get("mac_address")
    attached = []
    for key, node in wanted.items():
        origin = node or given or service.node
        name = declared(service.project, key, origin)
        entry, rank = _attachment(service, name, node)
        if service.sandbox.name == service.name:
            # Of several sandboxes, one has the names: a name leads to one.
            names = {*_names(service), *entry.get("aliases", ())} - {service.name}
            entry["aliases"] = sorted(names)
        else:
            entry.pop("aliases", None)
        attached.append((rank, {k: x for k, x in entry.items() if x != []}, origin))
    # The first network leads outside, so internal ones come last.
    attached.sort(key=lambda row: row[0])
    if mac and attached:
        attached[0][1].setdefault("mac_address", text(mac))
    for _rank, entry, origin in attached:
        service.sandbox.add("networks", entry, origin)


def _mode(service: Service, mode: Node, kind: str, other: str) -> None:
    if kind == "host":
        hint = (
            "leave it out and publish ports; an override file can have `network_mode: !reset null`"
        )
        raise mode.failure("a service can't have the host's network", hint)
    if kind == "none" and not other:
        service.sandbox.set("network_mode", "none", mode)
    elif kind in ("service", "container") and other:
        if kind == "service" and other not in service.project.services:
            hint = f"there are: {', '.join(service.project.services)}"
            raise mode.failure(f"service {other!r} is not there, or in no active profile", hint)
        service.sandbox.set("network_mode", f"container:{other}", mode)
    else:
        raise mode.error("is no network mode", "use bridge, none or service:NAME")


def _wanted(node: Node) -> dict[str, Node | None]:
    if isinstance(node.value, list):
        return {text(item): item for item in node.value}
    return dict(mapping(node))


def _names(service: Service) -> list[str]:
    """Names beside its own by which others look for the service on all of its networks."""
    container = service.get("container_name")
    own = [text(container)] if container else []
    return [name.lower() for name in (*own, *service.project.links.get(service.name, ()))]


def _attachment(service: Service, name: str, node: Node | None) -> tuple[Json, tuple[Any, ...]]:
    """The entry of a network, and its place among those of the service."""
    fields = known(node, _OWN, "networks") if node and isinstance(node.value, dict) else {}
    entry: Json = {"name": name}
    for key in ("ipv4_address", "ipv6_address", "mac_address"):
        if key in fields:
            entry[key] = text(fields[key])
    if "aliases" in fields:
        entry["aliases"] = [text(item).lower() for item in sequence(fields["aliases"])]
    if "link_local_ips" in fields:
        raise fields["link_local_ips"].failure("can't be carried over", "leave it out")
    for key in ("interface_name", "driver_opts"):
        if key in fields:
            service.warn(fields[key], "is left out: interfaces are eth0, eth1 and so on")
    ranks = [integer(fields[key]) if key in fields else 0 for key in ("gw_priority", "priority")]
    is_internal = service.project.networks.get(name, {}).get("internal", False)
    return entry, (is_internal, *(-rank for rank in ranks))


# -- declarations


def declared(project: Project, key: str, node: Node) -> str:
    """The name of a network, which is declared by that if the project makes it."""
    own = project.section("networks").get(key)
    if own is None and key != DEFAULT:
        own = project.declared("networks", key, node)
    given = known(own, _DECLARED, "networks") if own and own.value is not None else {}
    name = text(given["name"]) if "name" in given else project.own(key)
    outside = given.get("external")
    if own and outside and (isinstance(outside.value, dict) or boolean(outside)):
        old = outside.get("name")
        return text(old) if old else text(given["name"]) if "name" in given else key
    if name not in project.networks:
        project.origins["networks", name] = own or node
        project.networks[name] = _network(project, name, given, own or node)
    return name


def _network(project: Project, name: str, given: dict[str, Node], node: Node) -> Json:
    if "driver" in given and text(given["driver"]) not in ("bridge", "default"):
        hint = "leave driver out: the services are on one host"
        raise given["driver"].error("is a driver that sandlot has not", hint)
    if "enable_ipv4" in given and not boolean(given["enable_ipv4"]):
        raise given["enable_ipv4"].failure("a network has IPv4", "leave it out")
    entry: Json = {"name": name}
    if "internal" in given and boolean(given["internal"]):
        entry["internal"] = True
    if "driver_opts" in given:
        entry.update(_driver_options(project, given["driver_opts"]))
    if "ipam" in given:
        entry.update(_ipam(project, given["ipam"]))
    if "ipv4_subnet" not in entry:
        entry["ipv4_subnet"] = _subnet(project, name, node)
    if "enable_ipv6" in given and boolean(given["enable_ipv6"]):
        digits = hashlib.sha256(name.encode()).hexdigest()
        six = f"fd{digits[:2]}:{digits[2:6]}:{digits[6:10]}:{digits[10:14]}::/64"
        entry.setdefault("ipv6_subnet", str(ipaddress.ip_network(six)))
    if "labels" in given:
        project.warn(given["labels"], "is left out: networks have no labels")
    return entry


def _driver_options(project: Project, node: Node) -> Json:
    entry: Json = {}
    for key, item in mapping(node).items():
        short = key.removeprefix(_DRIVER)
        if short == "driver.mtu":
            entry["mtu"] = integer(item)
        elif short == "bridge.enable_icc":
            entry["isolated"] = not boolean(item)
        elif short == "bridge.enable_ip_masquerade":
            entry["nat"] = boolean(item)
        else:
            project.warn(item, "is left out: sandlot's networks have no such option")
    return entry


def _ipam(project: Project, node: Node) -> Json:
    fields = known(node, ("driver", "config", "options"), "ipam")
    if "driver" in fields and text(fields["driver"]) != "default":
        raise fields["driver"].error("is no driver of addresses here", "leave it out")
    if "options" in fields:
        project.warn(fields["options"], "is left out: there are no such drivers")
    entry: Json = {}
    for item in sequence(fields["config"]) if "config" in fields else []:
        given = known(item, _POOL, "ipam")
        for key in ("ip_range", "aux_addresses"):
            if key in given:
                project.warn(given[key], "is left out: addresses come from the whole subnet")
        if "subnet" not in given:
            continue
        family = "ipv6" if ":" in text(given["subnet"]) else "ipv4"
        if f"{family}_subnet" in entry:
            raise item.failure(f"a network has one subnet of {family}", "keep one of them")
        entry[f"{family}_subnet"] = text(given["subnet"])
        if "gateway" in given:
            entry[f"{family}_gateway"] = text(given["gateway"])
    return entry


def _subnet(project: Project, name: str, node: Node) -> str:
    """A range made from the network's name, so that it stays when other networks come and go."""
    pool = ipaddress.IPv4Network(project.request.subnet_pool)
    count = 1 << max(PREFIX - pool.prefixlen, 0)
    taken = [item["ipv4_subnet"] for item in project.networks.values()]
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    size = max(PREFIX, pool.prefixlen)
    for step in range(count):
        number = (first + step) % count
        start = int(pool.network_address) + (number << (32 - size))
        subnet = str(ipaddress.IPv4Network((start, size)))
        if subnet not in taken:
            return subnet
    hint = "set subnet_pool to a larger range, or give the network an ipam subnet"
    raise node.failure(f"no subnet is left in {pool}", hint)


# -- ports and names


def ports(service: Service) -> None:
    node = service.get("ports")
    for item in sequence(node) if node else []:
        service.sandbox.add("published_ports", _published(service, item), item)


def _published(service: Service, item: Node) -> str:
    if isinstance(item.value, dict):
        given = known(item, _PORT, "ports")
        if "target" not in given:
            raise item.failure("has no target", "give it `target: PORT`")
        address = text(given["host_ip"]) if "host_ip" in given else ""
        host = text(given["published"]) if "published" in given else ""
        inside = text(given["target"])
        protocol = text(given["protocol"]) if "protocol" in given else "tcp"
    else:
        short = port(item)
        address, host, inside = short.address, short.host, short.inside
        protocol = short.protocol
    if not host or host == "0":
        shown = number_text(item.value) if isinstance(item.value, int) else inside
        hint = f'choose one, as "8080:{shown}", or leave it out if only services use it'
        raise item.failure("names no port of the host", hint)
    if "-" in host and "-" not in inside:
        hint = "name one port of the host, or make both ranges the same length"
        raise item.failure(f"{host} is a range, but {inside} is one port", hint)
    where = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{where}{host}:{inside}/{protocol}"


def hosts(service: Service) -> None:
    node = service.get("extra_hosts")
    if not node:
        return
    rows = node.value if isinstance(node.value, dict) else pairs(node, "=:")
    for name, item in rows.items():
        if item.value is None:
            raise item.failure(f"{name} has no address", "write NAME=ADDRESS")
        address = text(item).strip().strip("[]") if not isinstance(item.value, list) else ""
        if isinstance(item.value, list):
            if len(item.value) != 1:
                raise item.failure(f"{name} has not one address", "keep one of them")
            address = text(item.value[0])
        if address == "host-gateway":
            address = _gateway(service, item)
        service.sandbox.put("etc_hosts", name, address, item)


def _gateway(service: Service, item: Node) -> str:
    """The host's address on the first network of the service."""
    attached = service.sandbox.options.get("networks", [])
    entry = service.project.networks.get(attached[0]["name"]) if attached else None
    if not entry:
        hint = "write the host's address on the service's first network in its place"
        raise item.failure("host-gateway is known for networks of this file only", hint)
    hint = "list their ports in host_access of the sandbox, by the option instances"
    service.warn(item, f"the host's services answer only what is granted; {hint}")
    if "ipv4_gateway" in entry:
        return str(entry["ipv4_gateway"])
    try:
        subnet = ipaddress.IPv4Network(entry["ipv4_subnet"])
    except ValueError as error:
        raise item.failure(f"the network has no subnet ({error})", "correct its ipam") from error
    return str(subnet.network_address + 1)


def resolvers(service: Service) -> None:
    node = service.get("dns")
    for item in one_or_more(node) if node else []:
        service.sandbox.add("dns_servers", text(item), item)
    for key in ("dns_search", "dns_opt"):
        node = service.get(key)
        if node and node.value not in ([], "", "."):
            service.warn(node, "is left out: use whole names")
