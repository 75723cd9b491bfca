# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names in egress lists, with a resolver that the tests play."""

from __future__ import annotations

import socket
import threading

import pytest
from lab import PEER_LAN, ask, ip
from sandlot.network import SandboxPolicy
from sandlot.network.common import resolution

NAME = "mirror.example"
OTHER = "192.0.2.10"
METADATA = "169.254.169.254"


def is_address(name):
    """What the tests' own connections ask for."""
    return name[:1].isdigit() or ":" in name


@pytest.fixture
def answers(monkeypatch):
    """Names with their addresses; one that is missing has no answer."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(name, *args, **options):
        if is_address(name):
            return real(name, *args, **options)
        if name not in known:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in known[name]]

    monkeypatch.setattr(resolution.socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def tenant(lab, answers):
    ip(lab.peer, "address", "add", f"{OTHER}/24", "dev", "lan0")
    lab.add("tenant")
    for port in (53, 443, 444):
        for address in (PEER_LAN, OTHER):
            lab.serve(lab.peer, port, "tcp", address)
    lab.networks = [{"name": "default", "egress": [f"{NAME}:443"], "dns_servers": ["192.0.2.99"]}]
    return lab


def reached(lab, wanted, port=443):
    """Which of the two addresses answers; asked again if one should."""
    pin = lab.pin("tenant")
    return {
        address
        for address in (PEER_LAN, OTHER)
        if any(ask(pin, address, port) for _ in range(5 if address in wanted else 1))
    }


def check(lab, wanted, port=443):
    assert lab.plan() == []
    assert reached(lab, wanted, port) == wanted


def test_name_is_reached_on_its_port_only(tenant, answers):
    answers[NAME] = [PEER_LAN]
    tenant.converge()
    check(tenant, {PEER_LAN})
    check(tenant, set(), port=444)


def test_answers_that_take_turns_add_up(tenant, answers, monkeypatch):
    answers[NAME] = [PEER_LAN]
    tenant.converge()
    answers[NAME] = [OTHER]
    changed = f"(addresses of {NAME} changed)"
    assert [line for line in tenant.plan() if changed in line]
    tenant.converge()
    for turn in ([PEER_LAN], [OTHER], [PEER_LAN, OTHER]):
        answers[NAME] = turn
        check(tenant, {PEER_LAN, OTHER})
    monkeypatch.setattr(resolution, "KEEP", 0.0)
    answers[NAME] = [OTHER]
    assert [line for line in tenant.plan() if changed in line]
    tenant.converge()
    check(tenant, {OTHER})


def test_no_answer_changes_nothing(tenant, answers, monkeypatch):
    tenant.converge()
    check(tenant, set())
    answers[NAME] = [PEER_LAN]
    tenant.converge()
    monkeypatch.setattr(resolution, "KEEP", 0.0)
    del answers[NAME]
    check(tenant, {PEER_LAN})


def test_a_resolver_that_hangs_delays_nobody_for_long(tenant, answers, monkeypatch):
    answers[NAME] = [PEER_LAN]
    tenant.converge()
    monkeypatch.setattr(resolution, "DEADLINE", 0.2)
    real = socket.getaddrinfo

    def hang(name, *args, **options):
        return real(name, *args, **options) if is_address(name) else threading.Event().wait()

    monkeypatch.setattr(resolution.socket, "getaddrinfo", hang)
    check(tenant, {PEER_LAN})


def test_an_answer_grants_no_closed_address(tenant, answers):
    """Whoever runs the name's zone must not reach the metadata service or the host with it."""
    ip(tenant.peer, "address", "add", f"{METADATA}/32", "dev", "lan0")
    ip(tenant.host, "route", "add", f"{METADATA}/32", "dev", "lan0")
    tenant.serve(tenant.peer, 443, "tcp", METADATA)
    answers[NAME] = [METADATA, "127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", PEER_LAN]
    tenant.converge()
    assert ask(tenant.pin("tenant"), METADATA, 443) is None
    check(tenant, {PEER_LAN})
    tenant.networks[0]["egress"] = [f"{METADATA}:443"]
    tenant.converge()
    assert any(ask(tenant.pin("tenant"), METADATA, 443) for _ in range(5))


@pytest.mark.parametrize("entry", ["dns", f"{NAME}:443"])
def test_resolvers_come_with_names(tenant, answers, entry):
    answers[NAME] = [OTHER]
    tenant.networks[0].update(egress=[f"{OTHER}:443"], dns_servers=[PEER_LAN])
    tenant.converge()
    check(tenant, set(), port=53)
    tenant.networks[0]["egress"] = [entry]
    tenant.converge()
    check(tenant, {PEER_LAN}, port=53)
    tenant.policies["tenant"] = SandboxPolicy(dns_servers=(OTHER,))
    tenant.converge()
    check(tenant, {OTHER}, port=53)


def test_names_that_are_gone_are_forgotten(tenant, answers):
    answers[NAME] = [PEER_LAN]
    tenant.converge()
    assert list(resolution.load(tenant.paths)) == [NAME]
    tenant.networks[0]["egress"] = []
    tenant.converge()
    check(tenant, set())
    assert resolution.load(tenant.paths) == {}
