# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A change of any option of a network reaches the host."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sandlot import network
from sandlot.idmap import IdRange
from sandlot.kernel.netlink import Link, Route
from sandlot.network import bridge
from sandlot.network.bridge import links, nft, overlap, rules, sysctls
from sandlot.network.bridge.forwarding import Forwarding
from sandlot.network.bridge.links import Inside
from sandlot.network.bridge.nft import Tables
from sandlot.network.bridge.observe import BridgeState
from sandlot.network.common import declare
from sandlot.network.common.desired import Desired, Member
from sandlot.network.common.model import Network, identity
from sandlot.sandbox import etcfiles
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise
from sandlot.spec.table.networks import OPTIONS
from sandlot.spec.values import Attachment

BASE = {"name": "lan", "ipv4_subnet": "10.78.0.0/24", "ipv6_subnet": "fd78::/64"}
# One other value of each option but the name.
OTHER: dict[str, Any] = {
    "ipv4_subnet": "10.79.0.0/24",
    "ipv4_gateway": "10.78.0.254",
    "ipv6_subnet": "fd79::/64",
    "ipv6_gateway": "fd78::ff",
    "nat": False,
    "isolated": True,
    "mtu": 1400,
    "dns_servers": ["192.0.2.53"],
    "internal": True,
    "egress": ["203.0.113.0/24"],
    "host_access": ["9100/tcp"],
}
# Indexes of links.
BRIDGE, OUTER, INNER = 7, 8, 3


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(overlap, "management_peers", lambda: set())
    monkeypatch.setattr(overlap, "host_resolvers", lambda: [])
    monkeypatch.setattr(sysctls, "has_ipv6", lambda: True)
    monkeypatch.setattr(links, "is_namespace_file", lambda path: True)
    site = Site(str(tmp_path))
    Path(site.state).mkdir(parents=True)
    return site


def desired(site: Site, **changed: Any) -> Desired:
    """One sandbox on one network, which is recorded already."""
    networks = declare.normalise(site, [{**BASE, **changed}])
    declare.save(site, networks)
    attached = {"web": [Attachment(name) for name in networks]}
    interfaces = network.allocate(site, networks, attached, {})["web"]
    return Desired(networks, interfaces, members=[Member("web", "bridge", interfaces)])


def host(site: Site, wanted: Desired) -> tuple[BridgeState, Inside]:
    """The host, and the sandbox's network namespace, that are as wanted."""
    (lan,), (item,) = wanted.networks.values(), wanted.interfaces
    text = rules.render(site, wanted.networks, wanted.interfaces, (), guarded=())
    master = Link(BRIDGE, lan.bridge, identity(site, lan.bridge), True, 1500, "bridge")
    mac, port = identity(site, item.link), {"master": BRIDGE, "peer": INNER, "hairpin": True}
    outer = Link(OUTER, item.link, mac, True, 1500, "veth", **port)
    inner = Link(INNER, item.ifname, item.mac, True, 1500, "veth", peer=OUTER)
    subnets = [str(each.subnet) for each in lan.ranges()]
    state = BridgeState(
        site=site,
        links={link.name: link for link in (master, outer)},
        addresses={BRIDGE: lan.bridge_addresses},
        routes=tuple(Route(subnet, BRIDGE, "", 254) for subnet in subnets),
        settings={lan.bridge: sysctls.wrong_settings({}, lan.bridge, ipv6=True)},
        forwarding=Forwarding(True, None),
        forwarding6=Forwarding(True, None),
        tables=Tables(True, nft.FAMILIES, (), "listed", nft.digest(text), "listed"),
    )
    lo = Link(1, "lo", "", True, 65536, "")
    inside = Inside(
        links={"lo": lo, item.ifname: inner},
        addresses={INNER: item.inner_addresses},
        default_routes={(item.gateway, INNER): [0], (item.gateway6, INNER): [0]},
        subnets=frozenset((subnet, INNER) for subnet in subnets),
    )
    return state, inside


def planned(site: Site, wanted: Desired, state: BridgeState) -> list[str]:
    plan = bridge.plan(site, wanted, state)
    steps = [step for member in plan.members.values() for part in member for step in part]
    return [operation.describe() for operation in (*plan.shared, *steps)]


def resolvers(wanted: Desired) -> bytes:
    raw = {"name": "web", "image": "busybox", "command": ["true"]}
    spec = normalise({**raw, "networks": [{"name": name} for name in wanted.networks]})
    image = ImageRef("busybox", "0" * 64)
    record = Record("web", PRESENT, "started", spec, IdRange(200000), image)
    record = dataclasses.replace(record, interfaces=tuple(wanted.interfaces))
    around = etcfiles.surroundings(wanted.networks, {"web": record}, {})
    return etcfiles.contents(record, around)["resolv.conf"]


def test_each_option_has_a_field_and_another_value() -> None:
    names = {option.name for option in OPTIONS}
    assert {*names, "bridge"} == {field.name for field in dataclasses.fields(Network)}
    assert {*OTHER, "name"} == names


@pytest.mark.parametrize("option", OTHER)
def test_a_change_of_an_option_reaches_the_host(
    site: Site, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    before = desired(site)
    state, inside = host(site, before)
    monkeypatch.setattr(links, "look_inside", lambda netns: inside)
    assert planned(site, before, state) == []
    after = desired(site, **{option: OTHER[option]})
    assert planned(site, after, state) or resolvers(after) != resolvers(before)
