# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A hostile tenant with raw sockets, in IPv6. Each frame is sent without the rules too, and then
arrives."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from lab import HOST_LAN6, Lab, arrives, ethernet, flush, icmp6, ipv6, raw, run, udp, udp6

STRANGER = "02:00:00:00:00:99"
ALL_NODES = "33:33:00:00:00:01"
GATEWAY = "fd77::1"
MARK = b"spoof"


@pytest.fixture(scope="module", params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def shared(request, tmp_path_factory):
    if os.geteuid():
        pytest.skip("needs root")
    networks = [{"name": "default", "ipv6_subnet": "fd77::/64"}]
    lab = Lab(tmp_path_factory.mktemp("lab"), networks=networks)
    for family in ("iptables", "ip6tables"):
        run(lab.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}={request.param}")
    lab.add("attacker", "victim", "third")
    yield lab
    lab.close()


@pytest.fixture
def tenants(shared, request):
    """Three tenants and all rules in place, whatever the test before took away."""
    value = "1" if "bridge-nf-on" in request.node.name else "0"
    run(shared.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-ip6tables={value}")
    shared.converge()
    return shared


def interface(lab, name):
    return lab.sandboxes[name][0]


def addresses(lab):
    return {
        "third": lab.address6("third"),
        "third's link-local": interface(lab, "third").link_local,
        "gateway": GATEWAY,
        "gateway's link-local": "fe80::1",
        "host": HOST_LAN6,
        "outside": "2001:db8:99::7",
        "unspecified": "::",
    }


def marked(received):
    return MARK in received


def refused(lab, frame, accept=marked):
    """Whether the rules alone keep the frame from the victim."""
    stopped = not arrives(lab, frame, accept)
    flush(lab)
    return stopped and arrives(lab, frame, accept)


@pytest.mark.parametrize("own", ["address6", "link_local"])
def test_honest_frames_arrive(tenants, own):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    packet = udp6(getattr(attacker, own), getattr(victim, own), 9)
    assert arrives(tenants, ethernet(victim.mac, attacker.mac, 0x86DD, packet), marked)
    body = ipv6(getattr(attacker, own), "ff02::1", 17, packet[40:])
    assert arrives(tenants, ethernet(ALL_NODES, attacker.mac, 0x86DD, body), marked)


FORGED = ["third", "third's link-local", "gateway", "gateway's link-local", "host", "outside"]


@pytest.mark.parametrize("source", FORGED)
def test_forged_source(tenants, source):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    packet = udp6(addresses(tenants)[source], victim.address6, 9)
    assert refused(tenants, ethernet(victim.mac, attacker.mac, 0x86DD, packet))


def test_forged_mac(tenants):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    packet = udp6(attacker.address6, victim.address6, 9)
    assert refused(tenants, ethernet(victim.mac, STRANGER, 0x86DD, packet))


def advertisement(target, mac):
    body = struct.pack("!I", 0x20000000) + socket.inet_pton(socket.AF_INET6, target)
    return body + b"\x02\x01" + raw(mac)


@pytest.mark.parametrize("own", ["address6", "link_local"])
@pytest.mark.parametrize("claimed", FORGED)
def test_forged_neighbour_advertisement(tenants, claimed, own):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    target = addresses(tenants)[claimed]
    body = advertisement(target, attacker.mac)
    packet = icmp6(getattr(attacker, own), victim.address6, 136, body)
    frame = ethernet(victim.mac, attacker.mac, 0x86DD, packet)
    assert refused(tenants, frame, lambda received: body in received)


@pytest.mark.parametrize("own", ["address6", "link_local"])
def test_honest_neighbour_advertisement_arrives(tenants, own):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    body = advertisement(getattr(attacker, own), attacker.mac)
    packet = icmp6(attacker.address6, victim.address6, 136, body)
    frame = ethernet(victim.mac, attacker.mac, 0x86DD, packet)
    assert arrives(tenants, frame, lambda received: body in received)


def test_poisoned_cache(tenants):
    """What an advertisement is for: the victim sends to the attacker what is for the third."""
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    third = tenants.address6("third")
    packet = icmp6(attacker.address6, victim.address6, 136, advertisement(third, attacker.mac))
    frame = ethernet(victim.mac, attacker.mac, 0x86DD, packet)
    run(tenants.pin("victim"), "ip", "-6", "neigh", "replace", third, "lladdr", STRANGER,
        "dev", "eth0", "nud", "stale")  # fmt: skip

    def sent(received):
        return packet[40:] in received

    def known():
        text = run(tenants.pin("victim"), "ip", "-6", "neigh", "show", third)
        return attacker.mac in text

    assert not arrives(tenants, frame, sent)
    assert not known()
    flush(tenants)
    assert arrives(tenants, frame, sent)
    assert known()


# Router solicitation, advertisement and redirect; queries and reports of multicast listeners.
@pytest.mark.parametrize("kind", [133, 134, 137, 130, 143, 151])
@pytest.mark.parametrize("destination", ["victim", "everybody"])
def test_messages_of_routers(tenants, kind, destination):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    body = bytes(4) + MARK.ljust(40, b"\0")
    where, mac = (
        (victim.address6, victim.mac) if destination == "victim" else ("ff02::1", ALL_NODES)
    )
    packet = icmp6(attacker.link_local, where, kind, body)
    assert refused(tenants, ethernet(mac, attacker.mac, 0x86DD, packet))


@pytest.mark.parametrize("header", [0, 60], ids=["hop-by-hop", "destination"])
def test_router_advertisement_behind_an_extension_header(tenants, header):
    attacker = interface(tenants, "attacker")
    inner = icmp6(attacker.link_local, "ff02::1", 134, bytes(4) + MARK.ljust(40, b"\0"))[40:]
    options = bytes([58, 0, 1, 4, 0, 0, 0, 0])
    packet = ipv6(attacker.link_local, "ff02::1", header, options + inner)
    assert refused(tenants, ethernet(ALL_NODES, attacker.mac, 0x86DD, packet))


def test_fragment_that_hides_what_it_is(tenants):
    """The first one ends before the header of ICMPv6 (RFC 7113)."""
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    fragment = struct.pack("!BBHI", 60, 0, 1, 7)
    options = bytes([58, 1, 1, 4, 0, 0, 0, 0])
    packet = ipv6(attacker.link_local, victim.link_local, 44, fragment + options)
    frame = ethernet(victim.mac, attacker.mac, 0x86DD, packet)
    # With br_netfilter, fragments are put together first, and what never gets whole goes nowhere.
    run(tenants.host, "sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=0")
    assert refused(tenants, frame, lambda received: packet in received)


def test_honest_fragments_arrive(tenants):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    run(tenants.host, "sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=0")
    whole = udp6(attacker.address6, victim.address6, 9, MARK * 100)[40:]
    for first, more, part in ((0, 1, whole[:256]), (256, 0, whole[256:])):
        payload = struct.pack("!BBHI", 17, 0, first | more, 7) + part
        packet = ipv6(attacker.address6, victim.address6, 44, payload)
        assert arrives(tenants, ethernet(victim.mac, attacker.mac, 0x86DD, packet), marked)


def test_rogue_dhcpv6_answer(tenants):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    packet = udp6(attacker.link_local, victim.link_local, 546, sport=547)
    assert refused(tenants, ethernet(victim.mac, attacker.mac, 0x86DD, packet))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tag", [0, 5])
def test_honest_packet_in_a_vlan(tenants, version, tag):
    """The kernel takes the tag off before the rules look, and puts it back on the way out."""
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    kind, packet = (
        (0x0800, udp(attacker.address, victim.address, 9))
        if version == 4
        else (0x86DD, udp6(attacker.address6, victim.address6, 9))
    )
    tagged = struct.pack("!HH", tag, kind) + packet
    run(tenants.host, "sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=0")
    assert refused(tenants, ethernet(victim.mac, attacker.mac, 0x8100, tagged))


def test_spanning_tree(tenants):
    attacker = interface(tenants, "attacker")
    payload = b"\x42\x42\x03" + MARK.ljust(43, b"\0")
    frame = raw("01:80:c2:00:00:00") + raw(attacker.mac) + struct.pack("!H", len(payload)) + payload
    assert refused(tenants, frame)
