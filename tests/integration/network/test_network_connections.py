# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One sandbox that opens connections without end leaves the host's table to the others."""

from __future__ import annotations

import contextlib
import socket

import pytest
from lab import HOST_LAN, PEER_LAN, ask, call, own_lists, run
from sandlot.network.bridge import policy_rules

FLOOD = 3000
LIMIT = 500
# What there is besides the flood.
SPARE = 50


@pytest.fixture
def limited(lab, monkeypatch):
    monkeypatch.setattr(policy_rules, "connection_limit", lambda: LIMIT)
    lab.add("attacker", "neighbour")
    lab.serve(lab.peer, 7000)
    lab.converge()
    return lab


def flood(lab, first_port=10000, name="attacker"):
    """A connection to each of many ports; nothing answers, which makes no difference here."""

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in range(first_port, first_port + FLOOD):
                with contextlib.suppress(ConnectionRefusedError, PermissionError):
                    sock.sendto(b"", (PEER_LAN, port))

    call(lab.pin(name), send)


def connections(lab):
    def read():
        with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as file:
            return int(file.read())

    return call(lab.host, read)


def answers(lab, name):
    return any(ask(lab.pin(name), PEER_LAN, 7000) == HOST_LAN for _ in range(5))


@pytest.mark.parametrize("bridge_nf", ["0", "1"])
def test_a_flood_stops_at_the_limit(limited, monkeypatch, bridge_nf):
    run(limited.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={bridge_nf}")
    flood(limited)
    assert LIMIT - SPARE < connections(limited) < LIMIT + SPARE
    assert ask(limited.pin("attacker"), PEER_LAN, 7000) is None
    assert answers(limited, "neighbour")
    monkeypatch.setattr(policy_rules, "connection_limit", lambda: 100_000)
    limited.converge()
    flood(limited, 20000)
    assert connections(limited) > FLOOD
    assert answers(limited, "attacker")


def test_runs_do_not_start_the_count_anew(limited):
    """Sandboxes, ports and lists come and go; whoever is at the limit stays there."""
    flood(limited)
    limited.add("another")
    limited.publish("another", 8080, 80)
    limited.converge()
    assert limited.plan() == []
    limited.serve(limited.pin("another"), 80)
    assert any(ask(limited.peer, HOST_LAN, 8080) == PEER_LAN for _ in range(5))
    flood(limited, 20000)
    assert connections(limited) < LIMIT + SPARE
    limited.policies["attacker"] = own_lists(egress=["0.0.0.0/0"])
    limited.converge()
    flood(limited, 30000)
    assert connections(limited) > LIMIT + SPARE, "a new list is a new chain: the rules are replaced"


def test_counting_is_no_drift(limited):
    flood(limited)
    assert limited.plan() == []


def test_connections_to_the_host_count(limited):
    limited.networks[0]["host_access"] = ["9000-20000/udp"]
    limited.converge()

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in range(10000, 10000 + FLOOD):
                with contextlib.suppress(ConnectionRefusedError):
                    sock.sendto(b"", ("10.77.0.1", port))

    call(limited.pin("attacker"), send)
    assert LIMIT - SPARE < connections(limited) < LIMIT + SPARE
