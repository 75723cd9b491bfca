# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from sandlot.errors import SpecError
from sandlot.network import check_publications
from sandlot.network.common import publications
from sandlot.network.common.model import Publication
from sandlot.network.common.publications import Socket


def publication(text, sandbox="web"):
    """'0.0.0.0:80/tcp' as a publication."""
    where, _, protocol = text.partition("/")
    host_ip, _, port = where.rpartition(":")
    return Publication(sandbox, host_ip.strip("[]"), int(port), protocol, "10.77.0.2", 80)


def check(texts, ours=()):
    wanted = [publication(text, f"s{number}") for number, text in enumerate(texts)]
    check_publications(wanted, [publication(text) for text in ours])


@pytest.fixture
def servers(monkeypatch):
    """Only this process may be an SSH server: an ordinary user can't look into the host's."""
    listdir = os.listdir
    own = {"/proc": [str(os.getpid())]}
    monkeypatch.setattr(os, "listdir", lambda path: own.get(path) or listdir(path))
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


@pytest.fixture
def listening(servers, monkeypatch):
    """Makes the host's sockets exactly those given as 'address:port/protocol'."""
    found = []

    def add(text, state=None, peer="0.0.0.0"):
        where, _, protocol = text.partition("/")
        address, _, port = where.rpartition(":")
        state = state or publications.LISTENING[protocol]
        found.append(Socket(protocol, address, int(port), state, peer))

    monkeypatch.setattr(publications, "sockets", lambda: iter(found))
    return add


COLLIDE = [
    ("0.0.0.0:80/tcp", "0.0.0.0:80/tcp"),
    ("0.0.0.0:80/tcp", "127.0.0.1:80/tcp"),
    ("127.0.0.1:80/tcp", "0.0.0.0:80/tcp"),
    ("127.0.0.1:53/udp", "127.0.0.1:53/udp"),
    ("[::]:80/tcp", "[2001:db8::1]:80/tcp"),
    ("[2001:db8::1]:80/tcp", "[2001:db8::1]:80/tcp"),
]
AGREE = [
    ("0.0.0.0:80/tcp", "0.0.0.0:81/tcp"),
    ("0.0.0.0:80/tcp", "0.0.0.0:80/udp"),
    ("127.0.0.1:80/tcp", "192.0.2.2:80/tcp"),
    ("0.0.0.0:80/tcp", "[::]:80/tcp"),
    ("127.0.0.1:80/tcp", "[2001:db8::1]:80/tcp"),
    ("[2001:db8::1]:80/tcp", "[2001:db8::2]:80/tcp"),
]


@pytest.mark.parametrize("pair", COLLIDE)
def test_two_sandboxes_want_one_port(listening, pair):
    with pytest.raises(SpecError, match="of sandbox s1 is published by sandbox s0") as caught:
        check(pair)
    assert caught.value.option == "published_ports"
    assert caught.value.hint


@pytest.mark.parametrize("pair", AGREE)
def test_two_sandboxes_agree(listening, pair):
    check(pair)


@pytest.mark.parametrize(
    ("listener", "wanted", "taken"),
    [
        ("0.0.0.0:8080/tcp", "0.0.0.0:8080/tcp", True),
        ("0.0.0.0:8080/tcp", "127.0.0.1:8080/tcp", True),
        (":::8080/tcp", "127.0.0.1:8080/tcp", True),
        ("127.0.0.1:8080/tcp", "0.0.0.0:8080/tcp", True),
        ("127.0.0.1:8080/tcp", "127.0.0.1:8080/tcp", True),
        ("127.0.0.1:8080/tcp", "192.0.2.2:8080/tcp", False),
        ("0.0.0.0:8080/udp", "0.0.0.0:8080/tcp", False),
        ("0.0.0.0:53/udp", "0.0.0.0:53/udp", True),
        (":::8080/tcp", "[2001:db8::1]:8080/tcp", True),
        ("::1:8080/tcp", "[::]:8080/tcp", True),
        ("::1:8080/tcp", "0.0.0.0:8080/tcp", False),
        ("0.0.0.0:8080/tcp", "[::]:8080/tcp", False),
        ("::1:8080/tcp", "[2001:db8::1]:8080/tcp", False),
    ],
)
def test_listeners(listening, listener, wanted, taken):
    listening(listener)
    if not taken:
        return check([wanted])
    with pytest.raises(SpecError, match="taken by a listener"):
        check([wanted])
    return check([wanted], ours=[wanted])


def test_connections_are_no_listeners(listening):
    listening("192.0.2.2:8080/tcp", state="01", peer="198.51.100.1")
    check(["0.0.0.0:8080/tcp"])


def test_management_port(listening, monkeypatch):
    check(["0.0.0.0:22/tcp"])
    listening("192.0.2.2:22/tcp")
    with pytest.raises(SpecError, match="managed through"):
        check(["127.0.0.1:22/tcp"])
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.1 50000 192.0.2.2 2222")
    with pytest.raises(SpecError, match="managed through"):
        check(["127.0.0.1:2222/tcp"])
    check(["127.0.0.1:2222/udp"])


def test_ports_that_are_told(listening):
    """A port that is translated on the way has no listener on the host."""
    wanted = [publication("0.0.0.0:2200/tcp")]
    check_publications(wanted, [])
    with pytest.raises(SpecError, match="managed through"):
        check_publications(wanted, [], [2200])
    check_publications([publication("0.0.0.0:2200/udp")], [], [2200])


@pytest.mark.parametrize("number", [0, -1, 65536])
def test_numbers_that_are_no_ports(number):
    assert publications.port_numbers("management_ports", [1, 65535]) == (1, 65535)
    with pytest.raises(SpecError, match=f"management_ports: {number} is no port"):
        publications.port_numbers("management_ports", [22, number])


def test_port_of_an_ssh_server(servers):
    """Found by the process that listens: become methods drop the session's variables."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert port not in publications.management_ports(publications.sockets())
        name = Path("/proc/self/comm")
        before = name.read_text()
        name.write_text("sshd")
        try:
            assert port in publications.management_ports(publications.sockets())
            with pytest.raises(SpecError, match="managed through"):
                check([f"0.0.0.0:{port}/tcp"])
        finally:
            name.write_text(before.strip())


def test_management_peers(listening, monkeypatch):
    listening("0.0.0.0:22/tcp")
    listening("192.0.2.2:22/tcp", state="01", peer="198.51.100.1")
    listening("192.0.2.2:80/tcp", state="01", peer="198.51.100.2")
    assert publications.management_peers() == {"198.51.100.1"}
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 50000 192.0.2.2 2222")
    assert publications.management_peers() == {"198.51.100.1", "198.51.100.7"}


def test_real_sockets_are_found(servers):
    with socket.socket() as four, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        four.bind(("127.0.0.1", 0))
        four.listen()
        datagrams.bind(("127.0.0.1", 0))
        found = {(item.protocol, item.address, item.port) for item in publications.sockets()}
        assert ("tcp", *four.getsockname()) in found
        assert ("udp", *datagrams.getsockname()) in found
        taken = Publication("web", "0.0.0.0", four.getsockname()[1], "tcp", "10.77.0.2", 80)
        with pytest.raises(SpecError, match="taken by a listener on 127.0.0.1"):
            check_publications([taken], [])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("0" * 32, "::"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
    ],
)
def test_addresses_of_proc(text, address):
    assert publications._address(text) == address


def test_processes_that_root_may_not_look_into(servers, monkeypatch):
    """In a container, those with more capabilities than its root has."""
    readlink, closed = os.readlink, [True]

    def refuse(path):
        if closed:
            raise PermissionError(13, "Permission denied", path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", refuse)
    with socket.socket() as server:
        listener = Socket("tcp", "127.0.0.1", 80, "0A", "", os.fstat(server.fileno()).st_ino)
        assert publications.holder(listener) == ""
        closed.clear()
        assert f"(pid {os.getpid()})" in publications.holder(listener)
