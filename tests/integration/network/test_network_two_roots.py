# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Two roots on one host: whoever leaves first takes no forwarding away from the other."""

from __future__ import annotations

import os

import pytest
from lab import HOST_LAN, PEER_LAN, Lab, ask, run
from sandlot.site import Site

FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def beside(lab, second_octet):
    """Another root on the same host."""
    other = Lab.__new__(Lab)
    other.__dict__.update(lab.__dict__)
    other.paths = Site(f"{lab.paths.root}{second_octet}")
    subnets = {"ipv4_subnet": f"10.{second_octet}.0.0/24", "ipv6_subnet": f"fd{second_octet}::/64"}
    other.networks = [{"name": "default", **subnets}]
    other.sandboxes, other.ports, other.rates, other.policies = {}, [], {}, {}
    return other


@pytest.fixture
def roots(lab):
    # What accept_ra was before the first root came is known to that one only, so it stays 2.
    run(lab.host, "sysctl", "-qw", f"{FORWARDING[6]}=0", "net.ipv6.conf.lan0.accept_ra=2")
    return [beside(lab, octet) for octet in (71, 72)]


def switched(lab):
    return [run(lab.host, "sysctl", "-n", key).strip() for key in FORWARDING.values()]


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_one_switches_it_off(lab, roots, first):
    before = lab.fingerprint()
    for each in roots:
        each.add("a")
        each.converge()
        assert each.plan() == []
    assert roots[0].plan() == []
    leaving, staying = roots[first], roots[1 - first]
    leaving.teardown()
    assert switched(lab) == ["1", "1"]
    assert staying.plan() == []
    staying.serve(lab.peer, 80)
    assert ask(staying.pin("a"), PEER_LAN, 80) == HOST_LAN
    staying.teardown()
    assert lab.fingerprint() == before


def test_the_last_network_with_ipv6_switches_that_off(lab, roots):
    for each in roots:
        each.converge()
    for number, each in enumerate(roots):
        each.networks = [{"name": "default", "ipv4_subnet": each.networks[0]["ipv4_subnet"]}]
        each.converge()
        assert switched(lab) == ["1", "01"[number == 0]]
    for each in roots:
        each.teardown()
    assert switched(lab) == ["0", "0"]


def test_it_stays_on_where_it_was_on(lab, roots):
    run(lab.host, "sysctl", "-qw", *(f"{key}=1" for key in FORWARDING.values()))
    for each in roots:
        each.converge()
    for each in roots:
        each.teardown()
        assert switched(lab) == ["1", "1"]


def test_all_leave_at_once(lab, roots):
    """Nobody leaves it to the other."""
    for _ in range(3):
        for each in roots:
            each.converge()
        children = []
        for each in roots:
            pid = os.fork()
            if pid == 0:
                each.teardown()
                os._exit(0)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
        assert switched(lab) == ["0", "0"]
