# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Validates, stores and loads the networks of users."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, Dict, Iterable, Mapping

from ... import store
from ...errors import SpecError, StateError
from ...site import Site
from ...spec.argspec import arguments
from ...spec.option import check, named, read
from ...spec.table.networks import DEFAULT_NAME, OPTIONS
from ...spec.text import mapping
from .model import DEFAULT_SUBNET, Network, Range


def normalise(
    site: Site, raw: Iterable[Mapping[str, Any]], option: str = "networks"
) -> dict[str, Network]:
    """Validate networks, alone and against each other; a SpecError names the option."""
    networks = {item.name: item for item in named(option, raw, partial(_network, site))}
    check_disjoint(networks)
    # Bridge names are digests, cut to the kernel's length, so two can be equal.
    holders: dict[str, str] = {}
    for network in networks.values():
        other = holders.setdefault(network.bridge, network.name)
        if other != network.name:
            problem = f"would have the same bridge, {network.bridge}, as network {other}"
            raise SpecError("name", network.name, problem, hint="choose another name for one")
    return networks


def argument_spec() -> Dict[str, Any]:
    """Ansible's argument spec of one network."""
    return arguments(OPTIONS)


def check_disjoint(networks: Mapping[str, Network]) -> None:
    """SpecError when two networks overlap; comparing neighbours in address order is enough."""
    pairs = [(each, network.name) for network in networks.values() for each in network.ranges()]
    pairs.sort(key=lambda pair: (pair[0].version, pair[0].first, pair[0].subnet.prefixlen))
    for (lower, below), (upper, above) in zip(pairs, pairs[1:]):
        if lower.subnet.overlaps(upper.subnet):
            raise SpecError(
                upper.option,
                str(upper.subnet),
                f"of network {above} overlaps {lower.subnet} of network {below}",
                hint=f"give each network a range of its own, or remove {below} in a run before",
            )


def default(site: Site) -> Network:
    """The network "default", for sandboxes that use it without a declaration."""
    return _network(site, "networks", {"name": DEFAULT_NAME})


def load(site: Site) -> dict[str, Network]:
    """The stored networks by name."""
    path = site.networks_file
    hint = f"restore it from a backup, or remove {path} and declare the networks again"
    data = store.read(path, hint=hint)
    if data is None:
        return {}
    try:
        networks = [Network.from_json(site, item) for item in data["networks"]]
        for network in networks:
            network.ranges()
        return {network.name: network for network in networks}
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        problem = f"{path} lacks or has an unknown field: {error}"
        raise StateError(problem, hint=hint) from error


def load_for(site: Site, used: Iterable[str]) -> dict[str, Network]:
    """The stored networks, and the default one if it is used without a declaration."""
    networks = load(site)
    if DEFAULT_NAME not in networks and DEFAULT_NAME in set(used):
        networks[DEFAULT_NAME] = default(site)
    return networks


def save(site: Site, networks: Mapping[str, Network]) -> None:
    items = [networks[name].to_json() for name in sorted(networks)]
    store.write(site.networks_file, {"networks": items})


def _network(site: Site, option: str, raw: Any) -> Network:
    values = read(OPTIONS, mapping(option, raw), f"{option}.")
    check(OPTIONS, SimpleNamespace(**values), f"{option}.")
    four, six = values["ipv4_subnet"] or DEFAULT_SUBNET, values["ipv6_subnet"]
    gateways = {}
    for key, subnet in (("ipv4_gateway", four), ("ipv6_gateway", six)):
        if subnet is None:
            continue
        address = values[key] or str(subnet[1])
        known = Range(subnet.version, subnet, address)
        if values[key] is not None and not known.has(ip_address(address)):
            hint = f"use one from {subnet[1]} to {subnet[-2]}"
            problem = f"is no host address in {subnet}"
            raise SpecError(f"{option}.{key}", address, problem, hint=hint)
        gateways[key] = address
    subnets = {"ipv4_subnet": str(four), "ipv6_subnet": None if six is None else str(six)}
    return Network(**{**values, **subnets, **gateways}, bridge=site.bridge(values["name"]))
