# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A hostile tenant with raw sockets. Each frame is sent without the rules too, and then arrives."""

from __future__ import annotations

import functools
import os
import struct

import pytest
from lab import HOST_LAN, Lab, arp_reply, ethernet, frames, inject, ip, run, udp

BROADCAST = "ff:ff:ff:ff:ff:ff"
STRANGER = "02:00:00:00:00:99"
GATEWAY = "10.77.0.1"
MARK = b"spoof"


@pytest.fixture(scope="module", params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def shared(request, tmp_path_factory):
    if os.geteuid():
        pytest.skip("needs root")
    lab = Lab(tmp_path_factory.mktemp("lab"))
    run(lab.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={request.param}")
    lab.add("attacker", "victim", "third")
    yield lab
    lab.close()


@pytest.fixture
def tenants(shared):
    """Three tenants and all rules in place, whatever the test before took away."""
    shared.converge()
    run(shared.host, "sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=1")
    return shared


def flush(lab):
    for family in ("inet", "bridge"):
        run(lab.host, "nft", "delete", "table", family, lab.paths.nft_table)


def arrives(lab, frame, accept=lambda frame: MARK in frame):
    attacker, victim = lab.pin("attacker"), lab.pin("victim")
    return frames(victim, "eth0", lambda: inject(attacker, "eth0", frame), accept)


def interface(lab, name):
    return lab.sandboxes[name][0]


def test_honest_frames_arrive(tenants):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    packet = udp(attacker.address, victim.address, 9)
    assert arrives(tenants, ethernet(victim.mac, attacker.mac, 0x0800, packet))


@pytest.mark.parametrize("source", ["third", "host", "gateway", "outside"])
def test_forged_ipv4_source(tenants, source):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    addresses = {
        "third": tenants.address("third"),
        "host": HOST_LAN,
        "gateway": GATEWAY,
        "outside": "203.0.113.7",
    }
    packet = udp(addresses[source], victim.address, 9)
    frame = ethernet(victim.mac, attacker.mac, 0x0800, packet)
    assert not arrives(tenants, frame)
    flush(tenants)
    assert arrives(tenants, frame)


def test_forged_mac(tenants):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    packet = udp(attacker.address, victim.address, 9)
    frame = ethernet(victim.mac, STRANGER, 0x0800, packet)
    assert not arrives(tenants, frame)
    assert STRANGER not in run(tenants.host, "bridge", "fdb"), "not learned either"
    flush(tenants)
    assert arrives(tenants, frame)


LINK_LOCAL = {"lldp": "01:80:c2:00:00:0e", "other": "01:80:c2:00:00:03"}


@pytest.mark.parametrize("group", LINK_LOCAL)
def test_forged_mac_in_a_link_local_frame(tenants, group):
    """Bridges take these frames for themselves before the rules see them, and learn from them."""
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    forged = ethernet(LINK_LOCAL[group], victim.mac, 0x0800, MARK.ljust(60, b"\0"))

    def diverted():
        """Whether the attacker gets what a third sandbox sends to the victim."""
        third = interface(tenants, "third")
        packet = udp(third.address, victim.address, 9)
        frame = ethernet(victim.mac, third.mac, 0x0800, packet)
        inject(tenants.pin("attacker"), "eth0", forged)
        send = functools.partial(inject, tenants.pin("third"), "eth0", frame)
        return frames(tenants.pin("attacker"), "eth0", send, lambda received: MARK in received)

    assert not diverted()
    port, learning = attacker.link, ("bridge", "link", "set", "dev", attacker.link, "learning")
    run(tenants.host, *learning, "on")
    run(tenants.host, "bridge", "fdb", "del", victim.mac, "dev", victim.link, "master")
    assert diverted()
    run(tenants.host, "bridge", "fdb", "del", victim.mac, "dev", port, "master", check=False)
    run(tenants.host, "ip", "link", "set", victim.link, "nomaster")


@pytest.mark.parametrize("claimed", ["gateway", "third"])
@pytest.mark.parametrize("speaker", ["own", "forged"])
def test_forged_arp(tenants, claimed, speaker):
    attacker, victim = interface(tenants, "attacker"), interface(tenants, "victim")
    address = GATEWAY if claimed == "gateway" else tenants.address("third")
    mac = attacker.mac if speaker == "own" else STRANGER
    body = arp_reply(mac, address, victim.mac, victim.address)
    frame = ethernet(victim.mac, attacker.mac, 0x0806, body)

    def accept(received):
        return received[12:14] == b"\x08\x06" and body in received

    assert not arrives(tenants, frame, accept)
    flush(tenants)
    assert arrives(tenants, frame, accept)


@pytest.mark.parametrize(
    "kind", [0x86DD, 0x8100, 0x88CC, 0x8863], ids=["ipv6", "vlan", "lldp", "pppoe"]
)
def test_other_protocols(tenants, kind):
    attacker = interface(tenants, "attacker")
    payload = struct.pack("!HH", 1, 0x0800) + MARK.ljust(60, b"\0")
    frame = ethernet(BROADCAST, attacker.mac, kind, payload)
    assert not arrives(tenants, frame)
    flush(tenants)
    # br_netfilter would drop what is no complete IPv6 packet for a reason of its own.
    run(tenants.host, "sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=0")
    assert arrives(tenants, frame)


def test_rogue_dhcp_answer(tenants):
    attacker = interface(tenants, "attacker")
    packet = udp(attacker.address, "255.255.255.255", 68, sport=67)
    frame = ethernet(BROADCAST, attacker.mac, 0x0800, packet)
    assert not arrives(tenants, frame)
    flush(tenants)
    assert arrives(tenants, frame)


def test_forged_source_to_the_outside(tenants):
    attacker = interface(tenants, "attacker")
    ip(tenants.peer, "route", "add", "10.77.0.0/22", "via", HOST_LAN)
    gateway_mac = _bridge_mac(tenants)
    frame = ethernet(gateway_mac, attacker.mac, 0x0800, udp("203.0.113.7", "192.0.2.9", 9))

    def leaves():
        return frames(
            tenants.peer,
            "lan0",
            lambda: inject(tenants.pin("attacker"), "eth0", frame),
            lambda received: MARK in received,
        )

    assert not leaves()
    # rp_filter of the bridge refuses it as well; the control takes both away.
    flush(tenants)
    for device in ("all", tenants.paths.bridge("default")):
        run(tenants.host, "sysctl", "-qw", f"net.ipv4.conf.{device}.rp_filter=0")
    assert leaves()


def _bridge_mac(lab):
    text = run(lab.host, "ip", "link", "show", lab.paths.bridge("default"))
    return text.split("link/ether ")[1].split()[0]
