# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Who reaches whom. Each attack is also made with the rules away, to show that it would work."""

from __future__ import annotations

import os
import re

import pytest
from lab import (
    HOST_LAN,
    PEER_LAN,
    ask,
    call,
    drop_netns,
    ethernet,
    frames,
    inject,
    ip,
    make_netns,
    pings,
    reached,
    run,
    udp,
)
from sandlot.site import Site

GATEWAY = "10.77.0.1"


@pytest.fixture(params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def bridge_nf(request, lab):
    run(lab.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={request.param}")
    return request.param


def flush(lab):
    for family in ("inet", "bridge"):
        run(lab.host, "nft", "delete", "table", family, lab.paths.nft_table)


def mac(netns, device):
    return re.search(r"link/ether (\S+)", run(netns, "ip", "link", "show", device))[1]


def let_peer_route(lab):
    ip(lab.peer, "route", "add", "10.77.0.0/22", "via", HOST_LAN)


def test_published_port_answers_everywhere(lab, bridge_nf):
    lab.add("web", "neighbour")
    lab.publish("web", 8080, 80)
    lab.publish("web", 5353, 53, protocol="udp")
    lab.converge()
    for port, protocol in ((80, "tcp"), (53, "udp")):
        lab.serve(lab.pin("web"), port, protocol)
    web, neighbour = lab.address("web"), lab.address("neighbour")

    assert ask(lab.host, "127.0.0.1", 8080) == GATEWAY
    assert ask(lab.host, HOST_LAN, 8080) == HOST_LAN
    assert ask(lab.host, web, 80) == GATEWAY
    assert ask(lab.host, GATEWAY, 8080) == GATEWAY
    assert ask(lab.peer, HOST_LAN, 8080) == PEER_LAN, "the client's address is preserved"
    assert ask(lab.pin("neighbour"), web, 80) == neighbour
    assert ask(lab.pin("neighbour"), HOST_LAN, 8080) == GATEWAY
    assert ask(lab.pin("neighbour"), GATEWAY, 8080) == GATEWAY
    assert ask(lab.pin("web"), HOST_LAN, 8080) == GATEWAY
    assert ask(lab.peer, HOST_LAN, 5353, "udp") == PEER_LAN
    assert ask(lab.host, "127.0.0.1", 5353, "udp") == GATEWAY
    assert ask(lab.pin("neighbour"), HOST_LAN, 5353, "udp") == GATEWAY


def test_port_bound_to_one_address(lab):
    lab.add("web")
    ip(lab.host, "address", "add", "192.0.2.3/24", "dev", "lan0")
    lab.publish("web", 8080, 80, host_ip=HOST_LAN)
    lab.converge()
    lab.serve(lab.pin("web"), 80)
    assert ask(lab.peer, HOST_LAN, 8080) == PEER_LAN
    assert ask(lab.peer, "192.0.2.3", 8080) is None
    assert ask(lab.host, "127.0.0.1", 8080) is None


def test_unpublished_port_is_unreachable_from_the_lan(lab, bridge_nf):
    lab.add("web")
    lab.publish("web", 8080, 80)
    lab.converge()
    for port in (80, 81):
        lab.serve(lab.pin("web"), port)
    let_peer_route(lab)
    run(lab.host, "nft", "-f", "-", text=FORWARD_ACCEPT)
    assert ask(lab.peer, lab.address("web"), 81) is None
    assert ask(lab.peer, lab.address("web"), 80) is None, "published at the host, not here"
    assert not pings(lab.peer, lab.address("web"))
    flush(lab)
    assert ask(lab.peer, lab.address("web"), 81) == PEER_LAN


FORWARD_ACCEPT = """
table ip foreign {
    chain forward { type filter hook forward priority 0; policy accept; }
}
"""


def test_port_published_on_loopback_is_not_for_the_lan(lab, bridge_nf):
    lab.add("web")
    lab.publish("web", 8081, 80, host_ip="127.0.0.1")
    lab.publish("web", 8082, 82, host_ip="127.0.0.1", protocol="udp")
    lab.converge()
    lab.serve(lab.pin("web"), 80)
    assert ask(lab.host, "127.0.0.1", 8081) == GATEWAY
    assert ask(lab.peer, HOST_LAN, 8081) is None

    crafted = ethernet(
        mac(lab.host, "lan0"), mac(lab.peer, "lan0"), 0x0800, udp(PEER_LAN, "127.0.0.1", 8082)
    )

    def arrives():
        return frames(
            lab.pin("web"),
            "eth0",
            lambda: inject(lab.peer, "lan0", crafted),
            lambda frame: b"spoof" in frame,
        )

    assert not arrives()
    drop_rule(lab, "prerouting", "ip daddr 127.0.0.0/8 return")
    assert arrives()


def drop_rule(lab, chain, rule):
    table = lab.paths.nft_table
    listing = run(lab.host, "nft", "-a", "list", "chain", "inet", table, chain)
    handle = re.search(rf"{re.escape(rule)} # handle (\d+)", listing)[1]
    run(lab.host, "nft", "delete", "rule", "inet", table, chain, "handle", handle)


def test_host_services_are_unreachable(lab, bridge_nf):
    lab.add("tenant")
    lab.converge()
    lab.serve(lab.host, 5000)
    tenant = lab.pin("tenant")
    for address in (GATEWAY, HOST_LAN):
        assert ask(tenant, address, 5000) is None
    assert pings(tenant, GATEWAY)
    assert not pings(tenant, HOST_LAN)
    flush(lab)
    assert ask(tenant, GATEWAY, 5000) == lab.address("tenant")


def test_host_loopback_is_unreachable(lab, bridge_nf):
    """Publishing on 127.0.0.1 needs route_localnet, which must not let sandboxes in."""
    lab.add("tenant")
    lab.converge()
    lab.serve(lab.host, 5000, "udp", "127.0.0.1")
    bridge = mac(lab.host, lab.paths.bridge("default"))
    item = lab.sandboxes["tenant"][0]
    question = ethernet(bridge, item.mac, 0x0800, udp(item.address, "127.0.0.1", 5000))

    def answered():
        return frames(
            lab.pin("tenant"),
            "eth0",
            lambda: inject(lab.pin("tenant"), "eth0", question),
            lambda frame: frame[12:14] == b"\x08\0" and frame[26:30] == b"\x7f\0\0\1",
        )

    assert not answered()
    flush(lab)
    assert answered()


def test_ports_of_other_programs_are_unreachable(lab, bridge_nf):
    """Also those another tool forwards from the host's address to somewhere else."""
    lab.add("tenant")
    lab.converge()
    let_peer_route(lab)
    lab.serve(lab.peer, 7000)
    run(lab.host, "nft", "-f", "-", text=FOREIGN_FORWARD)
    tenant = lab.pin("tenant")
    assert ask(tenant, HOST_LAN, 7001) is None
    flush(lab)
    assert ask(tenant, HOST_LAN, 7001) == lab.address("tenant")


FOREIGN_FORWARD = f"""
table ip foreign {{
    chain prerouting {{
        type nat hook prerouting priority -100; policy accept;
        ip daddr {HOST_LAN} tcp dport 7001 dnat to {PEER_LAN}:7000
    }}
}}
"""


def test_outside_is_reached_with_the_hosts_address(lab, bridge_nf):
    lab.networks.append({"name": "routed", "ipv4_subnet": "10.78.0.0/24", "nat": False})
    lab.add("a")
    lab.add("b", network_name="routed")
    lab.converge()
    lab.serve(lab.peer, 7000)
    ip(lab.peer, "route", "add", "10.78.0.0/24", "via", HOST_LAN)
    assert ask(lab.pin("a"), PEER_LAN, 7000) == HOST_LAN
    assert ask(lab.pin("b"), PEER_LAN, 7000) == lab.address("b")


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "168.63.129.16"])
def test_metadata_services_are_unreachable(lab, address):
    lab.add("tenant")
    lab.converge()
    let_peer_route(lab)
    ip(lab.peer, "address", "add", f"{address}/32", "dev", "lan0")
    ip(lab.host, "route", "add", f"{address}/32", "dev", "lan0")
    lab.serve(lab.peer, 80)
    assert ask(lab.host, address, 80) == HOST_LAN
    assert ask(lab.pin("tenant"), address, 80) is None
    flush(lab)
    assert ask(lab.pin("tenant"), address, 80) == lab.address("tenant")


def test_the_name_server_of_azure_is_no_more_than_that(lab):
    """Hosts there have no other, at the address of the platform."""
    azure = "168.63.129.16"
    lab.add("tenant")
    lab.converge()
    ip(lab.peer, "address", "add", f"{azure}/32", "dev", "lan0")
    ip(lab.host, "route", "add", f"{azure}/32", "dev", "lan0")
    for port, protocol in ((53, "tcp"), (53, "udp"), (80, "tcp")):
        lab.serve(lab.peer, port, protocol, azure)
    tenant = lab.pin("tenant")
    open_ones = {(azure, 53, "tcp"), (azure, 53, "udp")}
    assert reached(tenant, {*open_ones, (azure, 80, "tcp")}, open_ones) == open_ones


@pytest.mark.parametrize("isolated", [False, True])
def test_isolation(lab, bridge_nf, isolated):
    lab.networks[0]["isolated"] = isolated
    lab.add("a", "b", "c")
    lab.publish("a", 8080, 80)
    lab.converge()
    for name in "abc":
        lab.serve(lab.pin(name), 80)
    for one in "abc":
        for other in "abc".replace(one, ""):
            reached = ask(lab.pin(one), lab.address(other), 80)
            assert reached == (None if isolated else lab.address(one))
    assert (ask(lab.pin("b"), HOST_LAN, 8080) is None) == isolated
    assert ask(lab.peer, HOST_LAN, 8080) == PEER_LAN
    assert pings(lab.pin("a"), GATEWAY)


def test_isolation_survives_a_flush(lab):
    """The bridge ports are isolated themselves: without rules neighbours still don't meet."""
    lab.networks[0]["isolated"] = True
    lab.add("a", "b")
    lab.converge()
    lab.serve(lab.pin("a"), 80)
    flush(lab)
    assert ask(lab.pin("b"), lab.address("a"), 80) is None


def test_other_networks_are_reached_by_published_ports_only(lab, bridge_nf):
    lab.networks.append({"name": "backend", "ipv4_subnet": "10.78.0.0/24"})
    lab.add("front")
    lab.add("back", network_name="backend")
    lab.publish("back", 9000, 80)
    lab.converge()
    lab.serve(lab.pin("back"), 80)
    assert ask(lab.pin("front"), lab.address("back"), 80) is None
    assert ask(lab.pin("front"), HOST_LAN, 9000) is not None
    flush(lab)
    assert ask(lab.pin("front"), lab.address("back"), 80) == lab.address("front")


@pytest.mark.parametrize("before", ["0", "1"])
def test_forwarding_for_others_stays_as_it_was(lab, before):
    other = str(lab.directory / "other")
    make_netns(other)
    try:
        pair = ("link", "add", "lan1", "type", "veth", "peer", "name", "lan1", "netns", other)
        ip(lab.host, *pair)
        ip(lab.host, "address", "add", "198.51.100.1/24", "dev", "lan1")
        ip(other, "address", "add", "198.51.100.2/24", "dev", "lan1")
        for netns in (lab.host, other):
            ip(netns, "link", "set", "lan1", "up")
        ip(other, "route", "add", "default", "via", "198.51.100.1")
        ip(lab.peer, "route", "add", "198.51.100.0/24", "via", HOST_LAN)
        run(lab.host, "sysctl", "-qw", f"net.ipv4.ip_forward={before}")
        lab.serve(other, 80)
        reached = PEER_LAN if before == "1" else None
        assert ask(lab.peer, "198.51.100.2", 80) == reached
        lab.add("a")
        lab.converge()
        assert ask(lab.peer, "198.51.100.2", 80) == reached
        lab.teardown()
        assert ask(lab.peer, "198.51.100.2", 80) == reached
    finally:
        drop_netns(other)


def test_sandboxes_speak_no_ipv6(lab):
    lab.add("a")
    lab.converge()
    assert "inet6" not in run(lab.pin("a"), "ip", "address", "show", "eth0")
    bridge = lab.paths.bridge("default")
    for device in (bridge, lab.sandboxes["a"][0].link):
        assert "inet6" not in run(lab.host, "ip", "address", "show", device)


def test_engine_returns_to_the_hosts_namespace(lab):
    lab.add("a", "b")

    def converge_and_look():
        before = os.readlink("/proc/thread-self/ns/net")
        operations = lab.operations()
        for operation in operations:
            operation.apply()
        lab.operations()
        return before == os.readlink("/proc/thread-self/ns/net")

    assert call(lab.host, converge_and_look)


def test_two_roots_on_one_host(lab):
    """A test beside a deployment: the rules of one let the other's sandboxes through."""
    lab.add("a")
    lab.converge()
    beside = Site(str(lab.directory / "beside"))
    first, lab.paths = lab.paths, beside
    kept, lab.sandboxes = lab.sandboxes, {}
    lab.networks = [{"name": "default", "ipv4_subnet": "10.79.0.0/24"}]
    lab.add("b")
    lab.publish("b", 8080, 80)
    lab.converge()
    lab.serve(lab.pin("b"), 80)
    lab.serve(lab.peer, 7000)
    assert ask(lab.peer, HOST_LAN, 8080) == PEER_LAN
    assert ask(lab.pin("b"), PEER_LAN, 7000) == HOST_LAN
    b = lab.address("b")
    lab.teardown()
    lab.paths, lab.sandboxes, lab.ports = first, kept, []
    lab.networks = [{"name": "default"}]
    assert lab.plan() == []
    assert ask(lab.pin("a"), PEER_LAN, 7000) == HOST_LAN
    assert ask(lab.pin("a"), b, 80) is None
