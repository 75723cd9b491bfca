# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What sandboxes may reach. Each attack also runs where no list or no rule forbids it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct

import pytest
from lab import (
    HOST_LAN,
    PEER_LAN,
    SILENCE,
    ask,
    ethernet,
    frames,
    inject,
    ip,
    own_lists,
    pings,
    reached,
    run,
    udp,
)
from sandlot.errors import SpecError
from sandlot.kernel import netlink
from sandlot.kernel.namespaces import CLONE_NEWNET, setns

GATEWAY = "10.77.0.1"
OTHER = "192.0.2.10"


@pytest.fixture(params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def bridge_nf(request, lab):
    run(lab.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={request.param}")
    return request.param


@pytest.fixture
def tenant(lab):
    """A sandbox, and a LAN peer with two addresses and two ports open on each."""
    ip(lab.peer, "address", "add", f"{OTHER}/24", "dev", "lan0")
    lab.add("tenant", "neighbour")
    serve_all(lab, lab.peer, (PEER_LAN, OTHER), (7000, 7001))
    return lab


def serve_all(lab, netns, addresses, ports):
    """One socket for each address: over UDP, answers come from where the question went."""
    for address in addresses:
        for port in ports:
            lab.serve(netns, port, "tcp", address)
            lab.serve(netns, port, "udp", address)


def flush(lab):
    for family in ("inet", "bridge"):
        run(lab.host, "nft", "delete", "table", family, lab.paths.nft_table)


def mac(netns, device):
    return re.search(r"link/ether (\S+)", run(netns, "ip", "link", "show", device))[1]


def reaches(wanted, netns, address, port, protocol="tcp"):
    """Whether something answers; on a busy machine that may take more than one question."""
    questions = range(5 if wanted else 1)
    return any(ask(netns, address, port, protocol) is not None for _ in questions)


EVERYTHING = {
    (address, port, protocol)
    for address in (PEER_LAN, OTHER)
    for port in (7000, 7001)
    for protocol in ("tcp", "udp")
}


def check_reach(lab, wanted, name="tenant", asked=EVERYTHING):
    """That a sandbox reaches just these of what was asked for."""
    assert reached(lab.pin(name), asked, wanted) == wanted


def converge(lab, **options):
    """The default network with these options."""
    lab.networks[0] = {"name": "default", **options}
    return lab.converge()


LISTS = {
    "all": (None, EVERYTHING),
    "nothing": ([], set()),
    "address": ([OTHER], {item for item in EVERYTHING if item[0] == OTHER}),
    "range": (["192.0.2.8/31"], {item for item in EVERYTHING if item[0] == PEER_LAN}),
    "port": ([f"{OTHER}:7000"], {(OTHER, 7000, "tcp")}),
    "udp": ([f"{OTHER}:7000-7001/udp"], {(OTHER, 7000, "udp"), (OTHER, 7001, "udp")}),
    "anywhere": (["7001/tcp"], {(PEER_LAN, 7001, "tcp"), (OTHER, 7001, "tcp")}),
    "overlapping": (
        ["0.0.0.0/0:7000/udp", "192.0.2.0/24:6000-7000/udp", f"{OTHER}:7000-8000/udp"],
        {(PEER_LAN, 7000, "udp"), (OTHER, 7000, "udp"), (OTHER, 7001, "udp")},
    ),
    "mapping": ([{"to": OTHER, "ports": [7001], "protocol": "udp"}], {(OTHER, 7001, "udp")}),
    "ipv6 only": (["::/0"], set()),
}


@pytest.mark.parametrize("listed", LISTS)
def test_egress_lists(tenant, listed):
    egress, wanted = LISTS[listed]
    converge(tenant, egress=egress)
    check_reach(tenant, wanted)


def test_egress_with_bridge_netfilter(tenant, bridge_nf):
    converge(tenant, egress=[f"{OTHER}:7000"])
    check_reach(tenant, {(OTHER, 7000, "tcp")})
    tenant.serve(tenant.pin("neighbour"), 80)
    assert reaches(True, tenant.pin("tenant"), tenant.address("neighbour"), 80)
    tenant.publish("tenant", 8080, 81)
    tenant.converge()
    tenant.serve(tenant.pin("tenant"), 81)
    assert ask(tenant.peer, HOST_LAN, 8080) == PEER_LAN, "answers are not egress"


def test_a_sandboxes_own_list_replaces_that_of_its_network(tenant):
    tenant.policies["tenant"] = own_lists(egress=[f"{OTHER}:7000/tcp"])
    converge(tenant, egress=[])
    check_reach(tenant, {(OTHER, 7000, "tcp")})
    check_reach(tenant, set(), "neighbour")
    tenant.policies["tenant"] = own_lists(egress=[])
    converge(tenant)
    check_reach(tenant, set())
    check_reach(tenant, EVERYTHING, "neighbour")
    tenant.policies.clear()
    converge(tenant)
    check_reach(tenant, EVERYTHING)


def test_not_by_way_of_a_neighbour(tenant, bridge_nf):
    """One that has more and forwards packets; a proxy in it would work, being its own traffic."""
    tenant.policies["neighbour"] = own_lists(egress=["0.0.0.0/0"])
    converge(tenant, egress=[])
    run(tenant.pin("neighbour"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
    way = ("route", "replace", f"{PEER_LAN}/32", "via", tenant.address("neighbour"))
    ip(tenant.pin("tenant"), *way, "dev", "eth0")
    assert not reaches(False, tenant.pin("tenant"), PEER_LAN, 7000)
    assert reaches(True, tenant.pin("neighbour"), PEER_LAN, 7000)
    flush(tenant)
    ip(tenant.peer, "route", "add", "10.77.0.0/22", "via", HOST_LAN)
    assert reaches(True, tenant.pin("tenant"), PEER_LAN, 7000)


def test_published_ports_of_other_networks_are_egress(tenant):
    tenant.networks.append({"name": "backend", "ipv4_subnet": "10.78.0.0/24"})
    tenant.add("back", network_name="backend")
    tenant.publish("back", 9000, 80)
    tenant.publish("neighbour", 9001, 80)
    for name in ("back", "neighbour"):
        tenant.serve(tenant.pin(name), 80)
    for egress, wanted in ((None, True), ([], False), ([f"{HOST_LAN}:9000"], True)):
        converge(tenant, egress=egress)
        assert reaches(wanted, tenant.pin("tenant"), HOST_LAN, 9000) == wanted
        assert reaches(True, tenant.pin("tenant"), HOST_LAN, 9001), "a neighbour's"


def test_what_connection_tracking_does_not_know_stays_inside(tenant):
    """A kind of ICMP without a state; it could carry anything out, and untranslated."""
    converge(tenant, egress=[])
    packet = icmp(tenant.address("tenant"), PEER_LAN, kind=42)
    bridge = mac(tenant.host, tenant.paths.bridge("default"))
    frame = ethernet(bridge, tenant.sandboxes["tenant"][0].mac, 0x0800, packet)

    def leaves():
        return frames(
            tenant.peer,
            "lan0",
            lambda: inject(tenant.pin("tenant"), "eth0", frame),
            lambda received: b"spoof" in received,
        )

    assert not leaves()
    converge(tenant)
    assert not leaves()
    flush(tenant)
    assert leaves()


def icmp(source, destination, kind):
    head = udp(source, destination, 9)[:20]
    body = struct.pack("!BBHI", kind, 0, 0, 0) + b"spoof!"
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    head = head[:2] + struct.pack("!H", 20 + len(body)) + head[4:9] + b"\x01\0\0" + head[12:]
    total = sum(struct.unpack("!10H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + body


# -- the host's own services

SERVICES = {
    "none": ([], set()),
    "tcp": (["9100/tcp"], {(9100, "tcp")}),
    "udp": (["9100/udp"], {(9100, "udp")}),
    "range": (["9100-9101"], {(9100, "tcp"), (9101, "tcp")}),
}


@pytest.mark.parametrize("listed", SERVICES)
def test_host_services(tenant, bridge_nf, listed):
    services, wanted = SERVICES[listed]
    converge(tenant, host_access=services, egress=[])
    serve_all(tenant, tenant.host, (GATEWAY, HOST_LAN), (9100, 9101))
    asked = {
        (address, port, protocol)
        for address in (GATEWAY, HOST_LAN)
        for port in (9100, 9101)
        for protocol in ("tcp", "udp")
    }
    check_reach(tenant, {(GATEWAY, *item) for item in wanted}, asked=asked)
    assert pings(tenant.pin("tenant"), GATEWAY)
    flush(tenant)
    check_reach(tenant, asked, asked=asked)


def test_host_services_of_one_sandbox(tenant):
    tenant.serve(tenant.host, 9100)
    tenant.policies["tenant"] = own_lists(host_access=["9100/tcp"])
    converge(tenant)
    assert reaches(True, tenant.pin("tenant"), GATEWAY, 9100)
    assert not reaches(False, tenant.pin("neighbour"), GATEWAY, 9100)
    tenant.policies["tenant"] = own_lists(host_access=[])
    converge(tenant, host_access=["9100"])
    assert not reaches(False, tenant.pin("tenant"), GATEWAY, 9100)
    assert reaches(True, tenant.pin("neighbour"), GATEWAY, 9100)


def test_gateways_of_other_networks_are_no_way_to_the_host(tenant):
    tenant.networks.append({"name": "backend", "ipv4_subnet": "10.78.0.0/24"})
    tenant.serve(tenant.host, 9100)
    converge(tenant, host_access=["9100"])
    assert reaches(True, tenant.pin("tenant"), GATEWAY, 9100)
    assert not reaches(False, tenant.pin("tenant"), "10.78.0.1", 9100)
    flush(tenant)
    assert reaches(True, tenant.pin("tenant"), "10.78.0.1", 9100)


# -- metadata


def test_metadata_by_address_only(tenant):
    address = "169.254.169.254"
    ip(tenant.peer, "address", "add", f"{address}/32", "dev", "lan0")
    ip(tenant.host, "route", "add", f"{address}/32", "dev", "lan0")
    tenant.serve(tenant.peer, 7000, "tcp", address)
    for egress, wanted in (
        (None, False),
        (["0.0.0.0/0"], False),
        (["7000/tcp"], False),
        ([f"{address}:7001"], False),
        ([f"{address}:7000"], True),
        (["169.254.0.0/16:7000", "0.0.0.0/0"], True),
    ):
        converge(tenant, egress=egress)
        assert reaches(wanted, tenant.pin("tenant"), address, 7000) == wanted, egress
        assert not reaches(False, tenant.pin("tenant"), "169.254.169.253", 7000)


# -- internal networks


def test_internal_network(tenant, bridge_nf):
    tenant.networks.append({"name": "front", "ipv4_subnet": "10.78.0.0/24"})
    tenant.add("front", network_name="front")
    tenant.publish("front", 9000, 80)
    for name in ("front", "tenant"):
        tenant.serve(tenant.pin(name), 80)
    tenant.serve(tenant.host, 9100)
    ip(tenant.peer, "route", "add", "10.77.0.0/22", "via", HOST_LAN)

    pin, own = tenant.pin("tenant"), tenant.address("tenant")
    for internal in (False, True):
        converge(tenant, internal=internal, host_access=["9100"])
        if internal:
            # What follows is about the filter: a tenant with NET_ADMIN has a route of its own.
            ip(pin, "route", "add", "default", "via", GATEWAY)
        assert reaches(not internal, pin, PEER_LAN, 7000) is not internal
        assert reaches(not internal, pin, HOST_LAN, 9000) is not internal
        assert reaches(not internal, tenant.peer, own, 80) is False
        assert reaches(True, tenant.pin("neighbour"), own, 80)
        assert reaches(True, pin, GATEWAY, 9100)
        assert reaches(True, tenant.host, own, 80)


def test_nothing_is_published_from_an_internal_network(tenant):
    converge(tenant)
    tenant.publish("tenant", 8080, 80)
    tenant.networks[0]["internal"] = True
    with pytest.raises(SpecError, match="internal network default"):
        tenant.plan()


# -- flows that are under way


@contextlib.contextmanager
def talk(lab, protocol, port):
    """An echo server of the peer and a connected socket in the sandbox."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    client, server = socket_in(lab.pin("tenant"), kind), socket_in(lab.peer, kind)
    with client, server:
        server.bind((PEER_LAN, port))
        client.settimeout(5)
        if protocol == "tcp":
            server.listen()
            client.connect((PEER_LAN, port))
            other, _ = server.accept()
            with other:
                yield client, other.sendall, other
        else:
            client.connect((PEER_LAN, port))
            client.send(b"hello")
            _, address = server.recvfrom(64)
            yield client, lambda data: server.sendto(data, address), server


def socket_in(netns, kind):
    reading, writing = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with netlink.opened(netns) as fd:
            setns(fd, CLONE_NEWNET)
        made = socket.socket(socket.AF_INET, kind)
        socket.send_fds(writing, [b"x"], [made.fileno()])
        os._exit(0)
    with reading, writing:
        _, descriptors, _, _ = socket.recv_fds(reading, 1, 1)
    os.waitpid(pid, 0)
    return socket.socket(fileno=descriptors[0])


def arrives(sock, send, data):
    send(data)
    ready, _, _ = select.select([sock], [], [], SILENCE)
    return bool(ready) and data in sock.recv(4096)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_flows_end_with_their_permission(tenant, bridge_nf, protocol):
    converge(tenant, egress=["192.0.2.0/24"])
    with talk(tenant, protocol, 7100) as (client, answer, server):
        assert arrives(server, client.send, b"out-1")
        assert arrives(client, answer, b"in-1")
        converge(tenant, egress=["192.0.2.0/24:7100/udp", "192.0.2.0/24:7100/tcp"])
        assert arrives(server, client.send, b"out-2"), "still allowed, so it goes on"
        assert arrives(client, answer, b"in-2")
        converge(tenant, egress=[f"{OTHER}:7100"])
        assert not arrives(client, answer, b"in-3"), "not even one way"
        assert not arrives(server, client.send, b"out-3")


def test_flows_to_the_host_end_with_their_permission(tenant):
    converge(tenant, host_access=["9100/udp"])
    client, server = (socket_in(n, socket.SOCK_DGRAM) for n in (tenant.pin("tenant"), tenant.host))
    with client, server:
        server.bind((GATEWAY, 9100))
        client.connect((GATEWAY, 9100))
        client.send(b"hello")
        _, address = server.recvfrom(64)

        def answer(data):
            with contextlib.suppress(PermissionError):
                server.sendto(data, address)

        assert arrives(client, answer, b"in-1")
        converge(tenant, host_access=["9101/udp"])
        assert not arrives(client, answer, b"in-2")
        assert not arrives(server, client.send, b"out-2")
