# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What others took away is found and put back; what is not ours is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab import HOST_LAN, PEER_LAN, ask, call, ip, run
from sandlot import network, store
from sandlot.errors import ForeignError, SpecError

BRIDGE, LINK, TABLE = "BRIDGE", "LINK", "TABLE"

HOST_DAMAGE = {
    "rules flushed": ("nft", "flush", "ruleset"),
    "table deleted": ("nft", "delete", "table", "inet", TABLE),
    "bridge table deleted": ("nft", "delete", "table", "bridge", TABLE),
    "rule added": ("nft", "insert", "rule", "inet", TABLE, "to_host", "accept"),
    "chain emptied": ("nft", "flush", "chain", "inet", TABLE, "leaving"),
    "set emptied": ("nft", "flush", "set", "inet", TABLE, "addresses"),
    "bridge deleted": ("ip", "link", "del", BRIDGE),
    "bridge down": ("ip", "link", "set", BRIDGE, "down"),
    "bridge without address": ("ip", "address", "flush", "dev", BRIDGE),
    "address added": ("ip", "address", "add", "10.99.0.1/24", "dev", BRIDGE),
    "bridge without route": ("ip", "route", "flush", "dev", BRIDGE),
    "link deleted": ("ip", "link", "del", LINK),
    "link down": ("ip", "link", "set", LINK, "down"),
    "link unplugged": ("ip", "link", "set", LINK, "nomaster"),
    "link without hairpin": ("bridge", "link", "set", "dev", LINK, "hairpin", "off"),
    "link that learns": ("bridge", "link", "set", "dev", LINK, "learning", "on"),
    "forwarding off": ("sysctl", "-qw", "net.ipv4.ip_forward=0"),
    "localnet off": ("sysctl", "-qw", f"net.ipv4.conf.{BRIDGE}.route_localnet=0"),
    "sources unchecked": ("sysctl", "-qw", f"net.ipv4.conf.{BRIDGE}.rp_filter=0"),
    "answers for others": ("sysctl", "-qw", f"net.ipv4.conf.{BRIDGE}.arp_ignore=0"),
    "asks as others": ("sysctl", "-qw", f"net.ipv4.conf.{BRIDGE}.arp_announce=0"),
    "bridge of another size": ("ip", "link", "set", BRIDGE, "mtu", "1400"),
    "link of another size": ("ip", "link", "set", LINK, "mtu", "1400"),
    "link isolated": ("bridge", "link", "set", "dev", LINK, "isolated", "on"),
}
INNER_DAMAGE = {
    "inner address deleted": ("ip", "address", "flush", "dev", "eth0"),
    "inner address changed": ("ip", "address", "add", "10.77.3.3/22", "dev", "eth0"),
    "inner link down": ("ip", "link", "set", "eth0", "down"),
    "inner route deleted": ("ip", "route", "del", "default"),
    "inner subnet unreachable": ("ip", "route", "del", "10.77.0.0/22"),
    "inner link deleted": ("ip", "link", "del", "eth0"),
    "inner mac changed": ("ip", "link", "set", "eth0", "address", "02:00:00:00:00:98"),
    "inner name changed": ("ip", "link", "set", "eth0", "down", "name", "other0"),
    "inner link of another size": ("ip", "link", "set", "eth0", "mtu", "1400"),
    "lo down": ("ip", "link", "set", "lo", "down"),
}


@pytest.fixture
def web(lab):
    lab.add("web", "other")
    lab.publish("web", 8080, 80)
    lab.converge()
    lab.serve(lab.pin("web"), 80)
    assert lab.plan() == []
    return lab


def works(lab):
    asked = ((lab.peer, PEER_LAN), (lab.host, HOST_LAN), (lab.pin("web"), "10.77.0.1"))
    return [ask(netns, HOST_LAN, 8080) for netns, _ in asked] == [seen for _, seen in asked]


def repaired(lab):
    planned = lab.plan()
    assert planned, "drift was not noticed"
    assert lab.converge() == planned
    assert lab.plan() == []
    return works(lab)


@pytest.mark.parametrize("damage", HOST_DAMAGE)
def test_damage_on_the_host(web, damage):
    names = {
        BRIDGE: web.paths.bridge("default"),
        LINK: web.sandboxes["web"][0].link,
        TABLE: web.paths.nft_table,
    }
    command = HOST_DAMAGE[damage]
    for name, value in names.items():
        command = tuple(word.replace(name, value) for word in command)
    run(web.host, *command)
    assert repaired(web)


@pytest.mark.parametrize("damage", INNER_DAMAGE)
def test_damage_inside(web, damage):
    run(web.pin("web"), *INNER_DAMAGE[damage])
    assert repaired(web)


def test_a_port_of_an_isolated_network_that_is_opened(lab):
    lab.networks[0]["isolated"] = True
    lab.add("a", "b")
    lab.converge()
    link = lab.sandboxes["a"][0].link
    for flags in (("isolated", "off"), ("hairpin", "on"), ("learning", "on")):
        run(lab.host, "bridge", "link", "set", "dev", link, *flags)
        assert lab.plan() == [f"a: repair interfaces ({link} is not a port of its bridge)"]
        lab.converge()
        assert lab.plan() == []


def test_each_part_is_told(lab):
    lab.add("web")
    lines = lab.plan()
    assert [line.partition(":")[0] for line in lines] == [
        "network",
        "network",
        "network",
        "network default",
        "web",
    ]


def test_unlinking_many(lab):
    names = [f"s{number}" for number in range(20)]
    lab.add(*names)
    lab.converge()

    def unlink():
        found = network.unlink(lab.paths, names[:19], network.observe(lab.paths))
        for operation in [*found, *found]:
            operation.apply()
        left = network.observe(lab.paths)
        return [name for name in names if network.unlink(lab.paths, [name], left)]

    assert call(lab.host, unlink) == ["s19"]


def test_observing_imports_nothing_heavy(lab):
    lab.add("web")
    lab.converge()
    source = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sandlot import network\n"
        "from sandlot.site import Site\n"
        "network.observe(Site(sys.argv[2]))\n"
        "heavy = {'pyroute2', 'asyncio', 'multiprocessing'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    utils = str(Path(network.__file__).parents[2])
    assert run(lab.host, sys.executable, "-c", source, utils, lab.paths.root).strip() == "[]"


@pytest.mark.parametrize("which", ["bridge", "link"])
def test_foreign_link_with_our_name(lab, which):
    lab.add("web")
    name = lab.paths.bridge("default") if which == "bridge" else lab.sandboxes["web"][0].link
    ip(lab.host, "link", "add", name, "type", "bridge" if which == "bridge" else "veth")
    before = lab.fingerprint()
    with pytest.raises(ForeignError, match=name):
        lab.plan()
    with pytest.raises(ForeignError):
        lab.converge()
    lab.teardown()
    assert lab.fingerprint() == before


def test_foreign_table_with_our_name(lab):
    lab.add("web")
    run(lab.host, "nft", "add", "table", "inet", lab.paths.nft_table)
    before = lab.fingerprint()
    with pytest.raises(ForeignError, match="nftables table"):
        lab.converge()
    lab.teardown()
    assert lab.fingerprint() == before


FOREIGN = """
table ip nat {
    chain PREROUTING { type nat hook prerouting priority -100; policy accept; }
    chain POSTROUTING { type nat hook postrouting priority 100; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade
    }
}
table inet filter {
    set known { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }
    chain forward { type filter hook forward priority 0; policy accept; ip saddr @known accept; }
}
table bridge filter {
    chain forward { type filter hook forward priority -200; policy accept; }
}
"""


def test_foreign_rules_stay_byte_identical(lab):
    run(lab.host, "nft", "-f", "-", text=FOREIGN)

    def foreign():
        tables = (("ip", "nat"), ("inet", "filter"), ("bridge", "filter"))
        return [run(lab.host, "nft", "-a", "list", "table", *table) for table in tables]

    before = foreign()
    lab.add("web")
    lab.publish("web", 8080, 80)
    lab.converge()
    assert foreign() == before
    lab.serve(lab.pin("web"), 80)
    assert ask(lab.peer, HOST_LAN, 8080) == PEER_LAN
    lab.teardown()
    assert foreign() == before


@pytest.mark.parametrize("forwarding", ["0", "1"])
@pytest.mark.parametrize("redirects", ["0", "1"])
def test_teardown_leaves_the_host_as_found(lab, forwarding, redirects):
    settings = (
        f"net.ipv4.ip_forward={forwarding}",
        f"net.ipv4.conf.all.accept_redirects={redirects}",
        "net.ipv4.conf.lan0.forwarding=1",
    )
    run(lab.host, "sysctl", "-qw", *settings)
    before = lab.fingerprint()
    lab.networks.append({"name": "more", "ipv4_subnet": "10.78.0.0/24", "mtu": 1400})
    lab.add("a", "b")
    lab.add("c", network_name="more")
    lab.publish("a", 8080, 80)
    lab.converge()
    assert lab.fingerprint() != before
    assert lab.teardown()
    assert lab.fingerprint() == before
    assert lab.teardown() == []
    assert store.read(lab.paths.networks_file) is None


def test_forwarding_somebody_else_changed_is_not_restored(lab):
    lab.add("a")
    lab.converge()
    run(lab.host, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    lab.teardown()
    assert run(lab.host, "sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"


def test_subnet_in_use_is_refused_before_any_change(lab):
    ip(lab.host, "address", "add", "10.77.2.1/24", "dev", "lan0")
    before = lab.fingerprint()
    lab.add("a")
    with pytest.raises(SpecError, match="overlaps this host.s route"):
        lab.converge()
    assert lab.fingerprint() == before


def test_a_route_that_comes_later_does_not_stop_a_deploy(lab):
    lab.add("a")
    lab.converge()
    ip(lab.host, "route", "add", "10.77.3.128/25", "via", PEER_LAN)
    assert lab.plan() == []


def test_changing_a_network(lab):
    lab.add("a", "b")
    lab.publish("a", 8080, 80)
    lab.converge()
    lab.serve(lab.pin("a"), 80)
    lab.networks[0].update(ipv4_subnet="10.80.0.0/24", mtu=1400)
    lab.sandboxes.clear()
    lab.ports.clear()
    namespaces = list(lab.namespaces)
    lab._make = lambda path: None
    lab.add("a", "b")
    lab.namespaces = namespaces
    lab.publish("a", 8080, 80)
    lab.converge()
    assert lab.plan() == []
    assert ask(lab.pin("b"), "10.80.0.2", 80) == "10.80.0.3"
    assert "mtu 1400" in run(lab.host, "ip", "link", "show", lab.sandboxes["a"][0].link)
