# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from pathlib import Path

import pytest
from sandlot.errors import SpecError, StateError
from sandlot.launcher import refresher
from sandlot.launcher.refresher import INTERVAL, Refresher
from sandlot.network.bridge import policy_rules
from sandlot.network.common import declare, policy, resolution
from sandlot.network.common.policy import Policy, SandboxPolicy
from sandlot.site import Site
from sandlot.spec import grants

GOOD = {"name": "lan", "ipv4_subnet": "10.78.0.0/24"}


def entries(*texts):
    return grants.egress("egress", list(texts))


def covered(boxes):
    return [
        (address, port)
        for low, high, first, last in boxes
        for address in range(low, high + 1)
        for port in range(first, last + 1)
    ]


def test_boxes_without_overlap_cover_the_same():
    chance = random.Random(1)
    for _ in range(300):
        boxes = []
        for _ in range(chance.randrange(6)):
            low, first = chance.randrange(12), chance.randrange(12)
            boxes.append((low, low + chance.randrange(5), first, first + chance.randrange(5)))
        found = covered(policy.disjoint(boxes))
        assert len(found) == len(set(found))
        assert set(found) == set(covered(boxes))


def test_neighbouring_boxes_are_one():
    assert policy.disjoint([(0, 4, 80, 80), (5, 9, 80, 80)]) == ((0, 9, 80, 80),)
    assert policy.disjoint([(0, 9, 80, 80), (0, 9, 81, 90)]) == ((0, 9, 80, 90),)
    assert policy.disjoint([]) == ()


def test_text_of_an_entry_is_read_back():
    texts = ["203.0.113.0/24", "198.51.100.7:80,443/tcp", "[2001:db8::/32]:443/udp", "2001:db8::1"]
    for text in [*texts, "deb.example.org:443/tcp", "53/udp", "dns", "a.example"]:
        assert grants.shown(grants.egress("egress", [text])) == [text]


# -- what holds for whom


def effective(network, own=None, resolvers=("9.9.9.9",)):
    known = declare.normalise(Site(), [{**GOOD, **network}])["lan"]
    return policy._effective(known, own or SandboxPolicy(), tuple(resolvers))


@pytest.mark.parametrize(
    ("network", "own", "wanted"),
    [
        ({}, SandboxPolicy(), Policy(None, ())),
        ({"egress": []}, SandboxPolicy(), Policy((), ())),
        ({"egress": []}, SandboxPolicy(egress=entries("53/udp")), Policy(entries("53/udp"), ())),
        ({}, SandboxPolicy(egress=()), Policy((), ())),
        ({"host_access": ["53/udp"]}, SandboxPolicy(), Policy(None, entries("53/udp"))),
        ({"host_access": ["53/udp"]}, SandboxPolicy(host_access=()), Policy(None, ())),
        ({"egress": ["dns"]}, SandboxPolicy(), Policy(entries("dns"), (), ("9.9.9.9",))),
        (
            {"egress": ["dns"], "dns_servers": ["1.1.1.1"]},
            SandboxPolicy(),
            Policy(entries("dns"), (), ("1.1.1.1",)),
        ),
        (
            {"egress": ["a.example"], "dns_servers": ["1.1.1.1"]},
            SandboxPolicy(dns_servers=("8.8.8.8",)),
            Policy(entries("a.example"), (), ("8.8.8.8",)),
        ),
        (
            {"egress": ["1.2.3.4"], "dns_servers": ["1.1.1.1"]},
            SandboxPolicy(),
            Policy(entries("1.2.3.4"), ()),
        ),
    ],
)
def test_effective_policy(network, own, wanted):
    assert effective(network, own) == wanted


REFUSED = [
    ({"egress": "all"}, "egress", "not a list"),
    ({"egress": ["10.0.0.1/8"]}, r"egress\[0\]", "host bits"),
    ({"egress": ["1.1.1.1"] * 300}, "egress", "more than 256"),
    ({"host_access": ["dns"]}, r"host_access\[0\]", "no port of this host"),
    ({"internal": True, "egress": ["1.1.1.1"]}, "egress", "internal network"),
]


@pytest.mark.parametrize(("raw", "option", "problem"), REFUSED)
def test_refused_for_a_network(raw, option, problem):
    with pytest.raises(SpecError, match=f"{option}.*{problem}") as caught:
        declare.normalise(Site(), [{**GOOD, **raw}])
    assert caught.value.hint


def test_order_and_notation_are_no_change():
    one = declare.normalise(Site(), [{**GOOD, "egress": ["b.example:443", "1.1.1.1/32:53/udp"]}])
    two = declare.normalise(Site(), [{**GOOD, "egress": ["1.1.1.1:53/UDP", "B.example.:443/tcp"]}])
    assert one == two


def test_policy_is_stored_and_loaded(tmp_path):
    paths = Site(str(tmp_path))
    Path(paths.state).mkdir(parents=True)
    raw = [
        {**GOOD, "egress": [], "host_access": ["53/udp"]},
        {"name": "default", "egress": ["a.example", {"to": "1.1.1.1", "ports": 53}]},
        {"name": "shut", "ipv4_subnet": "10.79.0.0/24", "internal": True},
    ]
    networks = declare.normalise(paths, raw)
    declare.save(paths, networks)
    assert declare.load(paths) == networks


def test_networks_stored_before_there_was_policy(tmp_path):
    paths = Site(str(tmp_path))
    Path(paths.state).mkdir(parents=True)
    old = dict(GOOD, ipv4_gateway="10.78.0.1", nat=True, isolated=False, mtu=None, dns_servers=[])
    resolution.store.write(paths.networks_file, {"networks": [old]})
    assert declare.load(paths) == declare.normalise(paths, [GOOD])


def test_limit_of_connections_follows_memory(monkeypatch):
    sizes = {256 << 20: 1024, 512 << 20: 1024, 1000 << 20: 1024, 2 << 30: 4096, 64 << 30: 32768}
    for size, limit in sizes.items():
        values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": size // 4096}
        monkeypatch.setattr(policy_rules.os, "sysconf", values.__getitem__)
        assert policy_rules.connection_limit() == limit


# -- names


def test_merge():
    keep = resolution.KEEP
    seen = {"1.1.1.1": 1000.0, "2.2.2.2": 500.0}
    assert resolution.merge(seen, None, 1e9) == seen
    assert resolution.merge(seen, ["2.2.2.2"], 1001.0) == {"1.1.1.1": 1000.0, "2.2.2.2": 1001.0}
    assert resolution.merge(seen, [], 1000.0 + keep) == {}
    assert resolution.merge(seen, ["3.3.3.3"], 999 + keep) == {
        "1.1.1.1": 1000.0,
        "3.3.3.3": 999 + keep,
    }
    assert resolution.merge({"1.1.1.1": 9e9}, [], 1000.0) == {"1.1.1.1": 1000.0}, "clock set back"


def test_addresses_of_a_name_are_bounded():
    many = [f"10.{a}.{b}.1" for a, b in itertools.product(range(20), range(20))]
    found = resolution.merge({"1.1.1.1": 1.0}, many, 2.0)
    assert len(found) == resolution.MAX_ADDRESSES
    assert "1.1.1.1" not in found


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "0.0.0.0", "::", "169.254.169.254", "100.100.100.200", "fe80::1"]
    + ["fd00:ec2::254", "224.0.0.1", "ff02::1", "::ffff:169.254.169.254"],
)
def test_closed_addresses_are_no_answer(address):
    assert not resolution.is_usable(address)
    assert resolution.is_usable("192.168.1.1")
    assert resolution.is_usable("2001:db8::1")


def test_resolving_ends_in_time(monkeypatch):
    release = threading.Event()

    def getaddrinfo(name, *_args, **_options):
        if name.startswith("slow"):
            release.wait(20)
        if name == "gone.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if name == "broken.example":
            raise socket.gaierror(socket.EAI_FAIL, "failure")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(resolution.socket, "getaddrinfo", getaddrinfo)
    names = ["quick.example", "gone.example", "broken.example", "slow.example"]
    found = resolution.resolve(names, deadline=0.5)
    release.set()
    assert found == {"quick.example": ["192.0.2.1"], "gone.example": [], "broken.example": None}


@pytest.mark.parametrize("content", [{}, {"names": []}, {"names": {"a": {"1.1.1.1": "x"}}}])
def test_unusable_names_file(tmp_path, content):
    paths = Site(str(tmp_path))
    Path(paths.state).mkdir(parents=True)
    resolution.store.write(paths.names_file, content)
    with pytest.raises(StateError, match="names.json") as caught:
        resolution.load(paths)
    assert caught.value.hint


# -- the launcher's clock


@pytest.fixture
def spawned(monkeypatch):
    calls = []
    monkeypatch.setattr(refresher.os, "posix_spawn", lambda *words: calls.append(words))
    return calls


def test_no_names_no_timer(tmp_path, spawned):
    due = Refresher(Site(str(tmp_path)))
    assert due.wait() is None
    due.act()
    assert spawned == []


def test_refresh_is_started_once_when_due(tmp_path, spawned):
    paths = Site(str(tmp_path))
    Path(paths.state).mkdir(parents=True)
    Path(paths.names_file).touch()
    due = Refresher(paths)
    due.act()
    assert spawned == []
    assert 0 < due.wait() <= INTERVAL
    now = time.time()
    for moment in (now - INTERVAL - 1, now + 1e6):
        refresher.os.utime(paths.names_file, (moment, moment))
    assert due.wait() == INTERVAL, "a clock set back puts it off by one interval at most"
    refresher.os.utime(paths.names_file, (now - INTERVAL, now - INTERVAL))
    assert due.wait() == 0.0
    due.act()
    due.act()
    assert len(spawned) == 1
    assert spawned[0][2]["SANDLOT_ROOT"] == paths.root
