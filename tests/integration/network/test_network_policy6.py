# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What sandboxes may reach over IPv6: the same lists, and no way around those of IPv4."""

from __future__ import annotations

import re

import pytest
from lab import HOST_LAN6, PEER_LAN, PEER_LAN6, ask, ip, own_lists, reached, run

DUAL = {"name": "default", "ipv6_subnet": "fd77::/64"}
GATEWAY6 = "fd77::1"
METADATA = "fd00:ec2::254"


@pytest.fixture(params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def tenant(request, lab):
    run(lab.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-ip6tables={request.param}")
    lab.enable_ipv6()
    lab.networks[0] = dict(DUAL)
    lab.add("tenant", "neighbour")
    for address in (PEER_LAN, PEER_LAN6):
        for port in (7000, 7001):
            lab.serve(lab.peer, port, "tcp", address)
    return lab


def converge(lab, **options):
    lab.networks[0] = {**DUAL, **options}
    lab.converge()
    assert lab.plan() == []


def reaches(wanted, netns, address, port, protocol="tcp"):
    """Whether something answers; on a busy machine that may take more than one question."""
    questions = range(8 if wanted else 1)
    return any(ask(netns, address, port, protocol) is not None for _ in questions)


EVERYTHING = {(address, port) for address in (PEER_LAN, PEER_LAN6) for port in (7000, 7001)}
LISTS = {
    "all": (None, EVERYTHING),
    "nothing": ([], set()),
    "IPv4 only": (["0.0.0.0/0"], {item for item in EVERYTHING if item[0] == PEER_LAN}),
    "IPv6 only": (["::/0"], {item for item in EVERYTHING if item[0] == PEER_LAN6}),
    "range": (["2001:db8::/32"], {item for item in EVERYTHING if item[0] == PEER_LAN6}),
    "port": ([f"[{PEER_LAN6}]:7000"], {(PEER_LAN6, 7000)}),
    "both": (["7001/tcp"], {(PEER_LAN, 7001), (PEER_LAN6, 7001)}),
}


@pytest.mark.parametrize("listed", LISTS)
def test_egress_lists(tenant, listed):
    egress, wanted = LISTS[listed]
    converge(tenant, egress=egress)
    assert reached(tenant.pin("tenant"), EVERYTHING, wanted) == wanted


def test_host_services(tenant):
    converge(tenant)
    for address in (GATEWAY6, HOST_LAN6):
        tenant.serve(tenant.host, 9100, "tcp", address)
    pin = tenant.pin("tenant")
    link = run(tenant.host, "ip", "-6", "address", "show", tenant.paths.bridge("default"))
    local = re.search(r"inet6 (fe80::\S+)/64", link)
    for options, wanted in (({}, False), ({"host_access": ["9100"]}, True), ({}, False)):
        converge(tenant, **options)
        assert reaches(wanted, pin, GATEWAY6, 9100) == wanted
        assert not reaches(False, pin, HOST_LAN6, 9100)
        assert local is None or not reaches(False, pin, f"{local[1]}%eth0", 9100)
    tenant.policies["neighbour"] = own_lists(host_access=["9100/tcp"])
    converge(tenant)
    assert reaches(True, tenant.pin("neighbour"), GATEWAY6, 9100)
    assert not reaches(False, pin, GATEWAY6, 9100)


def test_metadata_by_address_only(tenant):
    ip(tenant.peer, "address", "add", f"{METADATA}/128", "dev", "lan0", "nodad")
    ip(tenant.host, "route", "add", f"{METADATA}/128", "dev", "lan0")
    tenant.serve(tenant.peer, 80, "tcp", METADATA)
    pin = tenant.pin("tenant")
    for egress, wanted in ((None, False), (["::/0"], False), ([f"[{METADATA}]:80"], True)):
        converge(tenant, egress=egress)
        assert reaches(wanted, pin, METADATA, 80) == wanted


def test_internal_network(tenant):
    tenant.serve(tenant.pin("tenant"), 80, "tcp", "::")
    ip(tenant.peer, "route", "add", "fd77::/64", "via", HOST_LAN6)
    own = tenant.address6("tenant")
    for internal in (False, True):
        converge(tenant, internal=internal)
        assert reaches(not internal, tenant.pin("tenant"), PEER_LAN6, 7000) is not internal
        assert not reaches(False, tenant.peer, own, 80)
        assert reaches(True, tenant.pin("neighbour"), own, 80)
        assert reaches(True, tenant.host, own, 80)
