# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

from ipaddress import ip_address

import pytest
from sandlot.errors import SpecError
from sandlot.network import allocate, publications
from sandlot.network.common import declare
from sandlot.network.common.model import Publication
from sandlot.site import Site
from sandlot.spec.values import Attachment, PublishedPort

PATHS = Site()
# Found by trying: their digests begin with the same 40 bits.
COLLIDE_LINK = ("s1615772", "s1932858")
NETWORKS = declare.normalise(
    PATHS,
    [
        {"name": "default"},
        {"name": "tiny", "ipv4_subnet": "10.78.0.0/29", "ipv4_gateway": "10.78.0.6"},
        {"name": "dual", "ipv4_subnet": "10.79.0.0/24", "ipv6_subnet": "fd79::/126"},
    ],
)


def at(text):
    return ip_address(text) if text else None


def parse(text):
    """'web: default, tiny=10.78.0.3; db: tiny' as attachments by sandbox."""
    wanted = {}
    for part in filter(None, (item.strip() for item in text.split(";"))):
        name, _, rest = part.partition(":")
        items = [item.strip().partition("=") for item in rest.split(",") if item.strip()]
        wanted[name.strip()] = [Attachment(network, at(text)) for network, _, text in items]
    return wanted


def run(wanted, kept=()):
    return allocate(PATHS, NETWORKS, parse(wanted), dict(kept))


def addresses_of(result):
    return {
        sandbox: " ".join(item.ipv4.partition("/")[0] for item in items)
        for sandbox, items in result.items()
    }


CASES = [
    # wanted before, wanted now, addresses now
    ("", "a: default; b: default", {"a": "10.77.0.2", "b": "10.77.0.3"}),
    ("", "a: tiny; b: tiny=10.78.0.1", {"a": "10.78.0.2", "b": "10.78.0.1"}),
    ("", "a: default, tiny", {"a": "10.77.0.2 10.78.0.1"}),
    ("", "a:", {"a": ""}),
    ("b: default", "a: default; b: default", {"a": "10.77.0.3", "b": "10.77.0.2"}),
    ("a: default; b: default", "b: default", {"b": "10.77.0.3"}),
    ("a: tiny=10.78.0.4", "a: tiny", {"a": "10.78.0.4"}),
    ("a: tiny=10.78.0.4", "a: tiny=10.78.0.5", {"a": "10.78.0.5"}),
    ("a: tiny", "a: tiny=10.78.0.5; b: tiny=10.78.0.1", {"a": "10.78.0.5", "b": "10.78.0.1"}),
    ("a: tiny", "a: tiny; b: tiny=10.78.0.1", {"a": "10.78.0.2", "b": "10.78.0.1"}),
    ("a: tiny, default", "a: default, tiny", {"a": "10.77.0.2 10.78.0.1"}),
    ("a: tiny", "a: default", {"a": "10.77.0.2"}),
    ("x: tiny", "a: tiny", {"a": "10.78.0.2"}),
]


@pytest.mark.parametrize(("before", "now", "expected"), CASES)
def test_addresses(before, now, expected):
    kept = run(before)
    result = run(now, kept)
    assert addresses_of(result) == expected
    assert run(now, {**kept, **result}) == result, "stable"


REFUSED = [
    ("", "a: nowhere", "networks", "is not a network of this host"),
    ("", "a: default, default", "networks", "listed twice"),
    ("", "a: tiny=10.77.0.9", "ipv4_address", "no host address in 10.78.0.0/29"),
    ("", "a: tiny=10.78.0.0", "ipv4_address", "no host address"),
    ("", "a: tiny=10.78.0.7", "ipv4_address", "no host address"),
    ("", "a: tiny=10.78.0.6", "ipv4_address", "in use by the gateway"),
    ("", "a: tiny=10.78.0.2; b: tiny=10.78.0.2", "ipv4_address", "in use by sandbox a"),
    ("x: tiny=10.78.0.2", "a: tiny=10.78.0.2", "ipv4_address", "in use by sandbox x"),
    ("", ";".join(f"s{n}: tiny" for n in range(6)), "networks", "has no free address"),
]


@pytest.mark.parametrize(("before", "now", "option", "problem"), REFUSED)
def test_refused(before, now, option, problem):
    with pytest.raises(SpecError, match=problem) as caught:
        run(now, run(before))
    assert caught.value.option == option
    assert caught.value.hint


def six(wanted, kept=()):
    """'a=fd79::2; b' on the network with both families: addresses by sandbox."""
    attachments = {}
    for item in wanted.split(";"):
        name, _, address = item.strip().partition("=")
        attachments[name] = [Attachment("dual", ipv6_address=at(address))]
    return allocate(PATHS, NETWORKS, attachments, dict(kept))


def told6(result):
    return {name: items[0].address6 for name, items in result.items()}


def test_ipv6_addresses():
    first = six("a; b")
    assert told6(first) == {"a": "fd79::2", "b": "fd79::3"}
    assert first["a"][0].gateway6 == "fd79::1"
    assert told6(six("b; a", first)) == {"b": "fd79::3", "a": "fd79::2"}, "stable"
    assert told6(six("a; b=fd79::2")) == {"a": "fd79::3", "b": "fd79::2"}
    assert told6(six("c", {"x": first["a"]})) == {"c": "fd79::3"}, "never double"
    assert told6(six("a=FD79:0::3")) == {"a": "fd79::3"}


@pytest.mark.parametrize(
    ("wanted", "option", "problem"),
    [
        ("a; b; c", "networks", "has no free address in fd79::/126"),
        ("a=fd79::1", "ipv6_address", "in use by the gateway"),
        ("a=fd79::", "ipv6_address", "no host address in fd79::/126"),
        ("a=fd80::2", "ipv6_address", "no host address"),
        ("a=fd79::2; b=fd79::2", "ipv6_address", "in use by sandbox a"),
    ],
)
def test_ipv6_refused(wanted, option, problem):
    with pytest.raises(SpecError, match=problem) as caught:
        six(wanted)
    assert caught.value.option == option
    assert caught.value.hint


def test_ipv6_address_on_a_network_without():
    wanted = {"a": [Attachment("tiny", ipv6_address=at("fd79::2"))]}
    with pytest.raises(SpecError, match="on a network without IPv6") as caught:
        allocate(PATHS, NETWORKS, wanted, {})
    assert "tiny" in caught.value.hint


def test_network_that_gains_ipv6():
    kept = run("a: tiny")
    raw = {
        "name": "tiny",
        "ipv4_subnet": "10.78.0.0/29",
        "ipv4_gateway": "10.78.0.6",
        "ipv6_subnet": "fd78::/64",
    }
    now = allocate(PATHS, declare.normalise(PATHS, [raw]), parse("a: tiny"), kept)["a"][0]
    assert (now.ipv4, now.ipv6) == (kept["a"][0].ipv4, "fd78::2/64")


@pytest.mark.parametrize("kept", [False, True])
def test_two_names_for_one_link(kept):
    one, other = COLLIDE_LINK
    assert PATHS.link(one, "eth0") == PATHS.link(other, "eth0")
    before = run(f"{one}: default") if kept else {}
    wanted = f"{other}: default" if kept else f"{one}: default; {other}: default"
    with pytest.raises(SpecError, match="would have the same interface") as caught:
        run(wanted, before)
    assert caught.value.hint


def test_too_many_interfaces():
    raw = [{"name": f"n{n}", "ipv4_subnet": f"10.{n}.0.0/24"} for n in range(17)]
    wanted = {"a": [Attachment(item["name"]) for item in raw]}
    with pytest.raises(SpecError, match="more than 16"):
        allocate(PATHS, declare.normalise(PATHS, raw), wanted, {})


def test_publications_by_family():
    interfaces = run("web: tiny, dual")["web"]
    targets = {
        "": [("0.0.0.0", "10.78.0.1"), ("::", "fd79::2")],
        "0.0.0.0": [("0.0.0.0", "10.78.0.1")],
        "::": [("::", "fd79::2")],
        "2001:db8::1": [("2001:db8::1", "fd79::2")],
    }
    for host_ip, expected in targets.items():
        found = publications("web", interfaces, [PublishedPort(host_ip, 80, 80, "tcp")])
        assert [(item.host_ip, item.address) for item in found] == expected
    with pytest.raises(SpecError, match="no IPv6 address") as caught:
        publications("web", run("web: tiny")["web"], [PublishedPort("::", 80, 80, "tcp")])
    assert "ipv6_subnet" in caught.value.hint


def test_pool_is_used_to_the_last_address():
    result = run(";".join(f"s{n}: tiny" for n in range(5)))
    assert sorted(addresses_of(result).values()) == [f"10.78.0.{n}" for n in range(1, 6)]


def test_a_thousand_sandboxes_fit_the_default_network():
    result = run(";".join(f"s{n}: default" for n in range(1000)))
    assert len(set(addresses_of(result).values())) == 1000


def test_a_bridge_has_a_port_for_each_sandbox():
    networks = declare.normalise(PATHS, [{"name": "wide", "ipv4_subnet": "10.78.0.0/16"}])
    full = {f"s{n}": [Attachment("wide")] for n in range(1023)}
    kept = allocate(PATHS, networks, full, {})
    more = {"more": [Attachment("wide")], "other": [Attachment("wide")]}
    with pytest.raises(SpecError, match="would have 1025 sandboxes, and its bridge") as caught:
        allocate(PATHS, networks, {**full, **more}, kept)
    assert caught.value.hint == "attach 2 of them to another network"
    # What is plugged in already stays, and another network has room.
    assert allocate(PATHS, networks, full, kept) == kept
    networks = {**networks, **NETWORKS}
    assert allocate(PATHS, networks, {**full, "more": [Attachment("default")]}, kept)


def test_address_outside_a_changed_subnet_is_replaced():
    kept = run("a: default")
    networks = declare.normalise(PATHS, [{"name": "default", "ipv4_subnet": "10.90.0.0/24"}])
    assert addresses_of(allocate(PATHS, networks, parse("a: default"), kept)) == {"a": "10.90.0.2"}


def test_interfaces():
    first, second = run("web: default, tiny")["web"]
    assert (first.ifname, second.ifname) == ("eth0", "eth1")
    assert first.link == PATHS.link("web", "eth0") != second.link
    assert (first.ipv4, first.gateway) == ("10.77.0.2/22", "10.77.0.1")
    assert first.mac != second.mac


def test_mac_twice():
    wanted = {name: [Attachment("default", None, "02:00:00:00:00:aa")] for name in "ab"}
    with pytest.raises(SpecError, match="in use by sandbox a"):
        allocate(PATHS, NETWORKS, wanted, {})
    result = allocate(PATHS, NETWORKS, {"a": wanted["a"]}, {})
    assert result["a"][0].mac == "02:00:00:00:00:aa"


def test_publications_lead_to_the_first_interface():
    interfaces = run("web: tiny, default")["web"]
    port = PublishedPort("127.0.0.1", 8080, 80, "tcp")
    assert publications("web", interfaces, [port]) == [
        Publication("web", "127.0.0.1", 8080, "tcp", "10.78.0.1", 80)
    ]
    with pytest.raises(SpecError, match="on no network"):
        publications("web", [], [port])
