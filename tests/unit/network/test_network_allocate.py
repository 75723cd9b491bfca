# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import pytest
from sandlot.errors import SpecError
from sandlot.network import allocate, declare, publications
from sandlot.network.model import Publication
from sandlot.paths import Paths
from sandlot.spec.values import Attachment, PublishedPort

PATHS = Paths()
NETWORKS = declare.normalise(
    PATHS,
    [
        {"name": "default"},
        {"name": "tiny", "ipv4_subnet": "10.78.0.0/29", "ipv4_gateway": "10.78.0.6"},
    ],
)


def parse(text):
    """'web: default, tiny=10.78.0.3; db: tiny' as attachments by sandbox."""
    wanted = {}
    for part in filter(None, (item.strip() for item in text.split(";"))):
        name, _, rest = part.partition(":")
        wanted[name.strip()] = [
            Attachment(*[word.strip() for word in item.split("=")])
            for item in rest.split(",")
            if item.strip()
        ]
    return wanted


def run(wanted, kept=()):
    return allocate(PATHS, NETWORKS, parse(wanted), dict(kept))


def told(result):
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
    assert told(result) == expected
    assert run(now, {**kept, **result}) == result, "stable"


REFUSED = [
    ("", "a: nowhere", "networks", "is not a network of this host"),
    ("", "a: default, default", "networks", "listed twice"),
    ("", "a: tiny=10.77.0.9", "ipv4_address", "no host address in 10.78.0.0/29"),
    ("", "a: tiny=10.78.0.0", "ipv4_address", "no host address"),
    ("", "a: tiny=10.78.0.7", "ipv4_address", "no host address"),
    ("", "a: tiny=10.78.0.6", "ipv4_address", "in use by the gateway"),
    ("", "a: tiny=nonsense", "ipv4_address", "is no IPv4 address"),
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


def test_pool_is_used_to_the_last_address():
    result = run(";".join(f"s{n}: tiny" for n in range(5)))
    assert sorted(told(result).values()) == [f"10.78.0.{n}" for n in range(1, 6)]


def test_a_thousand_sandboxes_fit_the_default_network():
    result = run(";".join(f"s{n}: default" for n in range(1000)))
    assert len(set(told(result).values())) == 1000


def test_address_outside_a_changed_subnet_is_replaced():
    kept = run("a: default")
    networks = declare.normalise(PATHS, [{"name": "default", "ipv4_subnet": "10.90.0.0/24"}])
    assert told(allocate(PATHS, networks, parse("a: default"), kept)) == {"a": "10.90.0.2"}


def test_interfaces():
    first, second = run("web: default, tiny")["web"]
    assert (first.ifname, second.ifname) == ("eth0", "eth1")
    assert first.link == PATHS.link("web", "eth0") != second.link
    assert (first.ipv4, first.gateway) == ("10.77.0.2/22", "10.77.0.1")
    assert first.mac != second.mac


@pytest.mark.parametrize(
    "mac", ["", "x", "01:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00"]
)
def test_mac_that_is_none(mac):
    wanted = {"a": [Attachment("default", None, mac or "ff:ff:ff:ff:ff:ff")]}
    with pytest.raises(SpecError, match="no unicast MAC"):
        allocate(PATHS, NETWORKS, wanted, {})


def test_mac_twice():
    wanted = {name: [Attachment("default", None, "02:00:00:00:00:AA")] for name in "ab"}
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
