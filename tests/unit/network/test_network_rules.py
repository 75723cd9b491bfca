# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from sandlot.errors import ForeignError, HostError
from sandlot.network import allocate
from sandlot.network.bridge import adapter, manage, nft, policy_rules, rules
from sandlot.network.bridge.forwarding import Forwarding
from sandlot.network.bridge.nft import Tables
from sandlot.network.bridge.observe import BridgeState
from sandlot.network.common import declare
from sandlot.network.common.desired import Desired, Member
from sandlot.network.common.model import Publication, Rates
from sandlot.site import Site
from sandlot.spec.values import Attachment

GOLDEN = Path(__file__).with_name("rules.nft")
PATHS = Site()
NETWORKS = declare.normalise(
    PATHS,
    [
        {"name": "default"},
        {"name": "tenants", "ipv4_subnet": "10.78.0.0/24", "isolated": True},
        {"name": "routed", "ipv4_subnet": "10.79.0.0/24", "nat": False},
        {"name": "dual", "ipv4_subnet": "10.80.0.0/24", "ipv6_subnet": "fd80::/64"},
        {
            "name": "hidden",
            "ipv4_subnet": "10.81.0.0/24",
            "ipv6_subnet": "2001:db8:81::/64",
            "nat": False,
            "isolated": True,
        },
    ],
)


@pytest.fixture(autouse=True)
def same_memory(monkeypatch):
    """The number of connections follows the machine's memory."""
    monkeypatch.setattr(policy_rules, "connection_limit", lambda: 4096)


def interfaces():
    wanted = {
        "web": [Attachment("default")],
        "db": [Attachment("default")],
        "guest": [Attachment("tenants")],
        "far": [Attachment("routed")],
        "both": [Attachment("default"), Attachment("dual"), Attachment("hidden")],
    }
    found = allocate(PATHS, NETWORKS, wanted, {})
    return [item for items in found.values() for item in items]


def published():
    return [
        Publication("web", "0.0.0.0", 8080, "tcp", "10.77.0.2", 80),
        Publication("web", "0.0.0.0", 5353, "udp", "10.77.0.2", 53),
        Publication("db", "127.0.0.1", 5432, "tcp", "10.77.0.3", 5432),
        Publication("both", "::", 8081, "tcp", "fd80::2", 80),
        Publication("both", "2001:db8::2", 53, "udp", "fd80::2", 53),
    ]


def render(guarded=(), **changes):
    values = {"networks": NETWORKS, "interfaces": interfaces(), "publications": published()}
    values.update(changes)
    return rules.render(PATHS, *values.values(), guarded=guarded)


def test_text_is_the_reviewed_one():
    assert render(guarded=[4, 6]) == GOLDEN.read_text()


def test_order_of_input_does_not_matter():
    reverse = {
        "networks": dict(reversed(NETWORKS.items())),
        "interfaces": interfaces()[::-1],
        "publications": published()[::-1],
    }
    assert render(**reverse) == render()


def test_number_of_rules_does_not_grow():
    def count(number):
        wanted = {f"s{index}": [Attachment("default")] for index in range(number)}
        found = allocate(PATHS, NETWORKS, wanted, {})
        items = [item for group in found.values() for item in group]
        ports = [
            Publication(item.sandbox, "0.0.0.0", 2000 + index, "tcp", item.address, 80)
            for index, item in enumerate(items)
        ]
        return len(render(interfaces=items, publications=ports).splitlines())

    assert count(1) == count(500)


def test_guard_only_when_forwarding_is_ours():
    guards = ["meta nfproto ipv4 drop", "meta nfproto ipv6 drop"]
    for versions, expected in ((), [False, False]), ([4], [True, False]), ([6], [False, True]):
        text = render(guarded=versions)
        assert [guard in text for guard in guards] == expected


def test_no_empty_element_lists():
    text = render(interfaces=[], publications=[])
    assert not re.search(r"elements = \{ +\}", text)


@pytest.mark.parametrize(
    ("tables", "error"),
    [
        (Tables(installed=False), HostError),
        (Tables(installed=True, present=("inet",), foreign=("inet",)), ForeignError),
    ],
)
def test_requirements(tables, error):
    with pytest.raises(error):
        nft.require(PATHS, tables)


def test_a_check_comes_before_nft_is_installed():
    desired = Desired(NETWORKS, [], foreseen=True)
    off = Forwarding(enabled=False, prior=None)
    state = BridgeState(PATHS, {}, {}, (), {}, off, Tables(installed=False))
    (operation,) = rules.rules_operations(PATHS, desired, state)
    assert "create nftables rules" in operation.describe()
    with pytest.raises(HostError):
        rules.rules_operations(PATHS, replace(desired, foreseen=False), state)


def test_a_check_comes_before_pyroute2_is_installed(monkeypatch):
    monkeypatch.setattr(adapter, "installed", lambda: False)
    off = Forwarding(enabled=False, prior=None)
    state = BridgeState(PATHS, {}, {}, (), {}, off, Tables(installed=True))
    web = [item for item in interfaces() if item.sandbox == "web"]
    member = Member("web", "bridge", web, Rates(10**6, 10**6), fresh=True)
    desired = Desired(NETWORKS, web, members=[member], foreseen=True)
    planned = manage.plan(PATHS, desired, state)
    assert any("create bridge" in operation.describe() for operation in planned.shared)
    assert planned.members["web"].links and planned.members["web"].rates
    with pytest.raises(HostError, match="pyroute2 was not found"):
        manage.plan(PATHS, replace(desired, foreseen=False), state)


def test_tables_hold():
    text = render()
    same = Tables(True, ("inet", "bridge"), (), "L", nft.digest(text), "L")
    assert same.hold(text)
    assert not same.hold(text + " ")
    assert not Tables(True, (), (), "", nft.digest(text), "").hold(text)
    assert not Tables(True, (), (), "other", nft.digest(text), "L").hold(text)


def test_order_of_listed_elements_does_not_matter():
    one = {"inet": "set a { elements = { x . 1,\n\t\t\t y . 2 } }", "bridge": ""}
    other = {"inet": "set a { elements = { y . 2, x . 1 } }", "bridge": ""}
    third = {"inet": "set a { elements = { y . 2 } }", "bridge": ""}
    assert nft._listing_digest(one) == nft._listing_digest(other) != nft._listing_digest(third)


def test_a_listing_between_two_transactions_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    generations, listings = iter([1, 2, 2, 2]), iter(["half", "half", "whole", "whole"])
    monkeypatch.setattr(nft.nftables, "generation", lambda: next(generations))
    monkeypatch.setattr(nft, "_listed", lambda command, words: next(listings))
    assert nft._listings("nft", "sandlot") == {"inet": "whole", "bridge": "whole"}


def test_rules_that_never_rest_are_looked_at_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    generations = count()
    monkeypatch.setattr(nft.nftables, "generation", lambda: next(generations))
    monkeypatch.setattr(nft, "_listed", lambda command, words: words[1])
    assert nft._listings("nft", "sandlot") == {"inet": "inet", "bridge": "bridge"}
    assert next(generations) == 2 * nft.LOOKS
