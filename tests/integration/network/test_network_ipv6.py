# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""IPv6 end to end: who reaches whom, and what of it a teardown takes back."""

from __future__ import annotations

import socket

import pytest
from lab import (
    HOST_LAN,
    HOST_LAN6,
    PEER_LAN,
    PEER_LAN6,
    ask,
    call,
    drop_netns,
    flush,
    ip,
    make_netns,
    pings,
    run,
)
from sandlot import network
from sandlot.errors import SpecError
from sandlot.spec.values import Attachment

GATEWAY = "fd77::1"
DUAL = {"name": "default", "ipv6_subnet": "fd77::/64"}
FORWARDING = "net.ipv6.conf.all.forwarding"
FORWARD_ACCEPT = """
table ip6 foreign {
    chain forward { type filter hook forward priority 0; policy accept; }
}
"""
FORWARD_DROP = FORWARD_ACCEPT.replace("policy accept", "policy drop")


@pytest.fixture
def dual(lab):
    lab.enable_ipv6()
    lab.networks[0] = dict(DUAL)
    return lab


@pytest.fixture(params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def bridge_nf(request, dual):
    for family in ("iptables", "ip6tables"):
        run(dual.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}={request.param}")
    return request.param


def let_peer_route(lab, subnet="fd77::/64"):
    ip(lab.peer, "route", "add", subnet, "via", HOST_LAN6)


def setting(netns, key):
    return run(netns, "sysctl", "-n", key).strip()


def link_local(lab, sandbox):
    return lab.sandboxes[sandbox][0].link_local


def test_published_port_answers_everywhere(dual, bridge_nf):
    dual.add("web", "neighbour")
    dual.publish("web", 8080, 80, host_ip="")
    dual.publish("web", 5353, 53, host_ip="::", protocol="udp")
    dual.converge()
    assert dual.plan() == []
    web, neighbour = dual.pin("web"), dual.pin("neighbour")
    dual.serve(web, 80, address="::")
    dual.serve(web, 80)
    dual.serve(web, 53, "udp", address="::")
    there, here = dual.address6("web"), dual.address6("neighbour")

    assert ask(dual.peer, HOST_LAN6, 8080) == PEER_LAN6, "the client's address is preserved"
    assert ask(dual.peer, HOST_LAN, 8080) == PEER_LAN, "without an address in both families"
    assert ask(dual.host, HOST_LAN6, 8080) == HOST_LAN6
    assert ask(dual.host, GATEWAY, 8080) == GATEWAY
    assert ask(dual.host, there, 80) == GATEWAY
    assert ask(neighbour, there, 80) == here
    assert ask(neighbour, HOST_LAN6, 8080) == GATEWAY
    assert ask(neighbour, GATEWAY, 8080) == GATEWAY
    assert ask(web, HOST_LAN6, 8080) == GATEWAY, "hairpin"
    assert ask(dual.peer, HOST_LAN6, 5353, "udp") == PEER_LAN6
    assert ask(neighbour, HOST_LAN6, 5353, "udp") == GATEWAY
    assert ask(dual.host, "::1", 8080) is None, "the kernel forwards nothing from there"
    assert pings(neighbour, GATEWAY)
    assert pings(neighbour, there)
    assert not pings(neighbour, HOST_LAN6)


def test_port_bound_to_one_family_or_address(dual):
    dual.add("web")
    ip(dual.host, "address", "add", "2001:db8::3/64", "dev", "lan0", "nodad")
    dual.publish("web", 8080, 80, host_ip=HOST_LAN6)
    dual.publish("web", 8081, 80, host_ip="0.0.0.0")
    dual.publish("web", 8082, 80, host_ip="127.0.0.1")
    dual.converge()
    dual.serve(dual.pin("web"), 80, address="::")
    dual.serve(dual.pin("web"), 80)
    assert ask(dual.peer, HOST_LAN6, 8080) == PEER_LAN6
    assert ask(dual.peer, "2001:db8::3", 8080) is None
    assert ask(dual.peer, HOST_LAN, 8080) is None
    assert ask(dual.peer, HOST_LAN, 8081) == PEER_LAN
    assert ask(dual.peer, HOST_LAN6, 8081) is None
    assert ask(dual.host, "127.0.0.1", 8082) is not None
    assert ask(dual.peer, HOST_LAN, 8082) is None
    assert ask(dual.peer, HOST_LAN6, 8082) is None


def test_ipv6_bind_needs_ipv6(lab):
    lab.add("web")
    with pytest.raises(SpecError, match="has no IPv6 address") as caught:
        lab.publish("web", 8080, 80, host_ip="::")
    assert caught.value.option == "published_ports"
    lab.publish("web", 8080, 80, host_ip="")
    assert [str(item) for item in lab.ports] == ["0.0.0.0:8080/tcp"]


def test_outside_is_reached_with_the_hosts_address(dual, bridge_nf):
    dual.networks.append(
        {"name": "routed", "ipv4_subnet": "10.78.0.0/24", "ipv6_subnet": "fd78::/64", "nat": False}
    )
    dual.add("a")
    dual.add("b", network_name="routed")
    dual.converge()
    dual.serve(dual.peer, 7000, address="::")
    let_peer_route(dual, "fd78::/64")
    assert ask(dual.pin("a"), PEER_LAN6, 7000) == HOST_LAN6
    assert ask(dual.pin("b"), PEER_LAN6, 7000) == dual.address6("b")


@pytest.mark.parametrize("policy", [FORWARD_ACCEPT, FORWARD_DROP], ids=["accept", "drop"])
def test_unpublished_port_is_unreachable_from_the_lan(dual, bridge_nf, policy):
    dual.add("web", "neighbour")
    dual.publish("web", 8080, 80, host_ip="")
    dual.converge()
    for port in (80, 81):
        dual.serve(dual.pin("web"), port, address="::")
    let_peer_route(dual)
    run(dual.host, "nft", "-f", "-", text=policy)
    web = dual.address6("web")
    assert ask(dual.peer, web, 81) is None
    assert ask(dual.peer, web, 80) is None, "published at the host, not here"
    assert not pings(dual.peer, web)
    accepted = policy == FORWARD_ACCEPT
    assert (ask(dual.peer, HOST_LAN6, 8080) == PEER_LAN6) == accepted, "what others drop stays so"
    flush(dual)
    assert (ask(dual.peer, web, 81) == PEER_LAN6) == accepted


def test_host_services_are_unreachable(dual, bridge_nf):
    dual.add("tenant")
    dual.converge()
    dual.serve(dual.host, 5000, address="::")
    tenant = dual.pin("tenant")
    targets = (GATEWAY, HOST_LAN6, "fe80::1%eth0")
    assert [ask(tenant, target, 5000) for target in targets] == [None] * 3
    assert pings(tenant, GATEWAY)
    flush(dual)
    seen = [ask(tenant, target, 5000) for target in targets]
    assert seen[:2] == [dual.address6("tenant")] * 2
    assert seen[2].startswith(link_local(dual, "tenant"))


def test_other_networks_are_reached_by_published_ports_only(dual, bridge_nf):
    dual.networks.append(
        {"name": "backend", "ipv4_subnet": "10.78.0.0/24", "ipv6_subnet": "fd78::/64"}
    )
    dual.add("front")
    dual.add("back", network_name="backend")
    dual.publish("back", 9000, 80, host_ip="")
    dual.converge()
    dual.serve(dual.pin("back"), 80, address="::")
    assert ask(dual.pin("front"), dual.address6("back"), 80) is None
    assert ask(dual.pin("front"), HOST_LAN6, 9000) is not None
    flush(dual)
    assert ask(dual.pin("front"), dual.address6("back"), 80) == dual.address6("front")


@pytest.mark.parametrize("address", ["fd00:ec2::254", "fd00:c1::a9fe:a9fe", "64:ff9b::a9fe:a9fe"])
def test_metadata_services_are_unreachable(dual, bridge_nf, address):
    dual.add("tenant")
    dual.converge()
    let_peer_route(dual)
    ip(dual.peer, "address", "add", f"{address}/128", "dev", "lan0", "nodad")
    ip(dual.host, "route", "add", f"{address}/128", "dev", "lan0")
    dual.serve(dual.peer, 80, address="::")
    assert ask(dual.host, address, 80) == HOST_LAN6
    assert ask(dual.pin("tenant"), address, 80) is None
    flush(dual)
    assert ask(dual.pin("tenant"), address, 80) == dual.address6("tenant")


@pytest.mark.parametrize("isolated", [False, True])
def test_isolation(dual, bridge_nf, isolated):
    dual.networks[0]["isolated"] = isolated
    dual.add("a", "b")
    dual.publish("a", 8080, 80, host_ip="")
    dual.converge()
    dual.serve(dual.pin("a"), 80, address="::")
    a, b = dual.address6("a"), dual.address6("b")
    assert ask(dual.pin("b"), a, 80) == (None if isolated else b)
    scoped = ask(dual.pin("b"), f"{link_local(dual, 'a')}%eth0", 80)
    assert (scoped is None) == isolated
    assert pings(dual.pin("b"), a) != isolated
    assert (ask(dual.pin("b"), HOST_LAN6, 8080) is None) == isolated
    assert ask(dual.peer, HOST_LAN6, 8080) == PEER_LAN6
    assert pings(dual.pin("a"), GATEWAY)
    if isolated:
        flush(dual)
        assert ask(dual.pin("b"), a, 80) is None, "the bridge ports are isolated themselves"


def test_a_new_sandbox_with_the_address_of_a_removed_one_is_reached_at_once(dual):
    """A neighbour that knew the address with another MAC address hears of the new one."""
    dual.add("a", "old")
    dual.converge()
    place, old = dual.address6("old"), dual.sandboxes.pop("old")[0]
    dual.serve(dual.pin("old"), 80, address="::")
    assert ask(dual.pin("a"), place, 80) == dual.address6("a")
    ip(dual.host, "link", "del", old.link)
    dual.add("new")
    dual.converge()
    assert dual.address6("new") == place and dual.sandboxes["new"][0].mac != old.mac
    known = run(dual.pin("a"), "ip", "-6", "neighbour", "show", place)
    assert dual.sandboxes["new"][0].mac in known


def test_a_service_of_ipv4_only_refuses_ipv6_at_once(dual):
    """A client that tries all addresses of a name goes on with IPv4; silence would hold it up."""
    dual.add("a", "b")
    dual.converge()
    dual.serve(dual.pin("a"), 80)
    places = [(dual.address6("a"), 80), (dual.address("a"), 80)]

    def connect():
        refused = 0
        for place in places:
            try:
                with socket.create_connection(place, timeout=60) as connection:
                    return refused, connection.getpeername()[0]
            except ConnectionRefusedError:
                refused += 1
        return refused, None

    assert call(dual.pin("b"), connect) == (1, dual.address("a"))


def test_ipv4_only_sandboxes_speak_no_ipv6(dual):
    dual.networks.append({"name": "old", "ipv4_subnet": "10.78.0.0/24"})
    dual.add("new")
    dual.add("a", network_name="old")
    dual.converge()
    assert "inet6" not in run(dual.pin("a"), "ip", "address", "show", "eth0")
    assert "inet6" not in run(dual.host, "ip", "address", "show", dual.paths.bridge("old"))
    assert "inet6" not in run(dual.host, "ip", "address", "show", dual.sandboxes["new"][0].link)


def test_default_routes_by_the_first_network_with_the_family(dual):
    dual.networks.append({"name": "old", "ipv4_subnet": "10.78.0.0/24"})
    known = network.normalise(dual.paths, dual.networks)
    wanted = {"a": [Attachment("old"), Attachment("default")]}
    dual.sandboxes.update(network.allocate(dual.paths, known, wanted, {}))
    dual._make(dual.pin("a"))
    dual.publish("a", 8080, 80, host_ip="")
    dual.converge()
    assert dual.plan() == []
    dual.serve(dual.pin("a"), 80, address="::")
    dual.serve(dual.pin("a"), 80)
    assert "dev eth0" in run(dual.pin("a"), "ip", "-4", "route", "show", "default")
    assert "dev eth1" in run(dual.pin("a"), "ip", "-6", "route", "show", "default")
    assert ask(dual.peer, HOST_LAN6, 8080) == PEER_LAN6
    assert ask(dual.peer, HOST_LAN, 8080) == PEER_LAN


def defaults(pin):
    return [
        line.split()[line.split().index("dev") + 1]
        for version in "46"
        for line in run(pin, "ip", f"-{version}", "route", "show", "default").splitlines()
    ]


def test_internal_networks_lead_nowhere(dual):
    dual.networks.append({"name": "back", "ipv4_subnet": "10.78.0.0/24"})
    dual.networks[1]["ipv6_subnet"] = "fd78::/64"
    known = network.normalise(dual.paths, dual.networks)
    wanted = {"a": [Attachment("default"), Attachment("back")], "b": [Attachment("default")]}
    dual.sandboxes.update(network.allocate(dual.paths, known, wanted, {}))
    for name in wanted:
        dual._make(dual.pin(name))
    dual.converge()
    assert [defaults(dual.pin(name)) for name in wanted] == [["eth0"] * 2, ["eth0"] * 2]
    dual.networks[0]["internal"] = True
    dual.converge()
    assert [defaults(dual.pin(name)) for name in wanted] == [["eth1"] * 2, []]
    for route in (["default", "dev", "eth0"], ["default", "via", "fd77::1"]):
        run(dual.pin("b"), "ip", "route", "add", *route)
    assert any("default route differs" in line for line in dual.plan())
    dual.converge()
    assert defaults(dual.pin("b")) == []
    assert dual.plan() == []
    dual.networks[0]["internal"] = False
    dual.converge()
    assert [defaults(dual.pin(name)) for name in wanted] == [["eth0"] * 2, ["eth0"] * 2]


def test_addresses_are_of_use_at_once(dual):
    """No duplicate address detection: an address that is being checked can't be bound."""
    dual.add("a")
    dual.converge()
    for netns, device in ((dual.pin("a"), "eth0"), (dual.host, dual.paths.bridge("default"))):
        assert "tentative" not in run(netns, "ip", "-6", "address", "show", device)


DAMAGE = {
    "bridge without address": ("host", "ip", "-6", "address", "flush", "dev", "BRIDGE"),
    "bridge address added": ("host", "ip", "address", "add", "fd99::1/64", "dev", "BRIDGE"),
    "bridge down": ("host", "ip", "link", "set", "BRIDGE", "down"),
    "bridge takes advertisements": ("host", "sysctl", "-qw", "net.ipv6.conf.BRIDGE.accept_ra=2"),
    "bridge has no IPv6": ("host", "sysctl", "-qw", "net.ipv6.conf.BRIDGE.disable_ipv6=1"),
    "forwarding off": ("host", "sysctl", "-qw", f"{FORWARDING}=0"),
    "set emptied": ("host", "nft", "flush", "set", "inet", "TABLE", "addresses6"),
    "inner addresses deleted": ("inside", "ip", "-6", "address", "flush", "dev", "eth0"),
    "inner address added": ("inside", "ip", "address", "add", "fd77::99/64", "dev", "eth0"),
    "inner link down": ("inside", "ip", "link", "set", "eth0", "down"),
    "inner route deleted": ("inside", "ip", "-6", "route", "del", "default"),
    "no IPv6 inside": ("inside", "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_repaired(dual, damage):
    dual.add("web")
    dual.publish("web", 8080, 80, host_ip="")
    dual.converge()
    dual.serve(dual.pin("web"), 80, address="::")
    assert dual.plan() == []
    names = {"BRIDGE": dual.paths.bridge("default"), "TABLE": dual.paths.nft_table}
    where, *command = DAMAGE[damage]
    for name, value in names.items():
        command = [word.replace(name, value) for word in command]
    run(dual.host if where == "host" else dual.pin("web"), *command)
    planned = dual.plan()
    assert planned, "drift was not noticed"
    assert dual.converge() == planned
    assert dual.plan() == []
    assert ask(dual.peer, HOST_LAN6, 8080) == PEER_LAN6
    assert ask(dual.pin("web"), HOST_LAN6, 8080) == GATEWAY


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_teardown_leaves_the_host_as_found(dual, forwarding):
    run(dual.host, "sysctl", "-qw", f"{FORWARDING}={forwarding}")
    run(dual.host, "sysctl", "-qw", "net.ipv6.conf.lan0.forwarding=1")
    before = dual.fingerprint()
    dual.add("a", "b")
    dual.publish("a", 8080, 80, host_ip="")
    dual.converge()
    assert setting(dual.host, FORWARDING) == "1"
    assert dual.teardown()
    assert dual.fingerprint() == before
    assert dual.teardown() == []


def test_host_keeps_routes_from_router_advertisements(dual):
    """A link that forwards takes none unless accept_ra is 2."""
    accept = "net.ipv6.conf.lan0.accept_ra"
    dual.add("a")
    dual.converge()
    assert setting(dual.host, accept) == "2"
    assert setting(dual.host, f"net.ipv6.conf.{dual.paths.bridge('default')}.accept_ra") == "0"
    dual.teardown()
    assert (setting(dual.host, accept), setting(dual.host, FORWARDING)) == ("1", "0")


def test_network_that_loses_ipv6(dual):
    dual.converge()
    dual.networks[0] = {"name": "default"}
    assert "network: restore IPv6 forwarding" in dual.converge()
    assert setting(dual.host, FORWARDING) == "0"
    assert "inet6" not in run(dual.host, "ip", "address", "show", dual.paths.bridge("default"))
    assert dual.plan() == []
    dual.networks[0] = dict(DUAL)
    dual.converge()
    assert GATEWAY in run(dual.host, "ip", "address", "show", dual.paths.bridge("default"))
    assert dual.plan() == []


@pytest.mark.parametrize("before", ["0", "1"])
def test_forwarding_for_others_stays_as_it_was(dual, before):
    other = str(dual.directory / "other")
    make_netns(other)
    try:
        pair = ("link", "add", "lan1", "type", "veth", "peer", "name", "lan1", "netns", other)
        ip(dual.host, *pair)
        for netns, address in ((dual.host, "2001:db8:1::1/64"), (other, "2001:db8:1::2/64")):
            run(netns, "sysctl", "-qw", "net.ipv6.conf.lan1.accept_dad=0")
            ip(netns, "link", "set", "lan1", "up")
            ip(netns, "address", "add", address, "dev", "lan1", "nodad")
        ip(other, "-6", "route", "add", "default", "via", "2001:db8:1::1")
        ip(dual.peer, "route", "add", "2001:db8:1::/64", "via", HOST_LAN6)
        run(dual.host, "sysctl", "-qw", f"{FORWARDING}={before}")
        dual.serve(other, 80, address="::")
        reached = PEER_LAN6 if before == "1" else None
        assert ask(dual.peer, "2001:db8:1::2", 80) == reached
        dual.add("a")
        dual.converge()
        assert ask(dual.peer, "2001:db8:1::2", 80) == reached
        dual.teardown()
        assert ask(dual.peer, "2001:db8:1::2", 80) == reached
    finally:
        drop_netns(other)


def test_subnet_in_use_is_refused_before_any_change(dual):
    ip(dual.host, "address", "add", "fd77::77:1/112", "dev", "lan0", "nodad")
    before = dual.fingerprint()
    dual.add("a")
    with pytest.raises(SpecError, match="overlaps this host.s route") as caught:
        dual.converge()
    assert "ipv6_subnet" in caught.value.message + caught.value.hint
    assert dual.fingerprint() == before
