# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import pytest
from sandlot.errors import SpecError
from sandlot.kernel.netlink import Link, Route
from sandlot.network.bridge import overlap
from sandlot.network.bridge.forwarding import Forwarding
from sandlot.network.bridge.nft import Tables
from sandlot.network.bridge.observe import BridgeState
from sandlot.network.common import declare
from sandlot.network.common.model import identity
from sandlot.site import Site

PATHS = Site()
NETWORKS = declare.normalise(PATHS, [{"name": "default"}])
BRIDGE = Link(7, "sandlot0", identity(PATHS, "sandlot0"), True, 1500, "bridge")
FOREIGN_BRIDGE = Link(7, "sandlot0", "02:00:00:00:00:01", True, 1500, "bridge")


def state(routes, links=(), addresses=()):
    return BridgeState(
        PATHS,
        {link.name: link for link in links},
        dict(addresses),
        tuple(routes),
        {},
        Forwarding(True, None),
        Tables(True),
    )


def check(observed):
    overlap.check_subnets(PATHS, NETWORKS, observed)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(overlap, "management_peers", lambda: set())
    monkeypatch.setattr(overlap, "host_resolvers", lambda: [])


@pytest.mark.parametrize(
    ("destination", "index", "refused"),
    [
        ("10.77.0.0/22", 2, True),
        ("10.77.3.7/32", 2, True),
        ("10.0.0.0/8", 2, True),
        ("0.0.0.0/0", 2, False),
        ("10.77.4.0/24", 2, False),
        ("10.77.0.0/22", 7, False),
    ],
)
def test_routes(destination, index, refused):
    observed = state([Route(destination, index, "", 254)], [BRIDGE])
    if not refused:
        return check(observed)
    with pytest.raises(SpecError, match="overlaps this host's route") as caught:
        return check(observed)
    assert caught.value.option == "ipv4_subnet"
    assert caught.value.hint
    return None


def test_route_to_a_foreign_bridge_counts():
    with pytest.raises(SpecError):
        check(state([Route("10.77.0.0/22", 7, "", 254)], [FOREIGN_BRIDGE]))


def test_network_that_is_up_is_left_alone():
    addresses = {7: ("10.77.0.1/22",)}
    check(state([Route("10.77.0.0/24", 2, "", 254)], [BRIDGE], addresses))


def test_ssh_client(monkeypatch):
    monkeypatch.setattr(overlap, "management_peers", lambda: {"10.77.1.1", "2001:db8::1"})
    with pytest.raises(SpecError, match="overlaps the SSH client 10.77.1.1"):
        check(state([]))


def test_resolver(monkeypatch):
    monkeypatch.setattr(overlap, "host_resolvers", lambda: ["127.0.0.53", "10.77.2.53"])
    with pytest.raises(SpecError, match="overlaps the resolver 10.77.2.53"):
        check(state([]))
