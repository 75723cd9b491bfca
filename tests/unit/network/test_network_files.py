# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import pytest
from sandlot.network import hosts_file, resolv_conf
from sandlot.network.model import Interface

STUB = "# managed\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
REAL = "nameserver 192.0.2.53\nnameserver ::1\nsearch example.org\n"

CASES = [
    ([], STUB, REAL, ["nameserver 192.0.2.53", "search example.org"]),
    ([], REAL, STUB, ["nameserver 192.0.2.53", "search example.org"]),
    (["1.1.1.1"], STUB, REAL, ["nameserver 1.1.1.1", "options edns0 trust-ad", "search lan"]),
    (["1.1.1.1"], None, None, ["nameserver 1.1.1.1"]),
    ([], "nameserver 2001:db8::1\n", None, ["nameserver 2001:db8::1"]),
    ([], "nameserver fe80::1%eth0\n", None, ["nameserver fe80::1%eth0"]),
    ([], "nameserver\n; nameserver 192.0.2.1\n", None, []),
    ([], None, None, []),
]


@pytest.mark.parametrize(("servers", "first", "second", "expected"), CASES)
def test_resolv_conf(tmp_path, servers, first, second, expected):
    sources = []
    for name, content in (("first", first), ("second", second)):
        sources.append(str(tmp_path / name))
        if content is not None:
            (tmp_path / name).write_text(content)
    assert resolv_conf(servers, sources).splitlines() == expected


def interface(sandbox, network, address):
    return Interface(sandbox, network, "eth0", "sb", "02", f"{address}/24", "10.0.0.1")


def test_hosts_file():
    web = [interface("web", "a", "10.0.0.2")]
    neighbours = {
        "web": web,
        "near": [interface("near", "a", "10.0.0.3"), interface("near", "b", "10.1.0.3")],
        "far": [interface("far", "b", "10.1.0.4")],
    }
    text = hosts_file("web", "www", web, neighbours, {"db.example": "192.0.2.7"})
    assert text.splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "10.0.0.2\twww web",
        "10.0.0.3\tnear",
        "192.0.2.7\tdb.example",
    ]


def test_hosts_file_without_network():
    assert "127.0.1.1\tweb" in hosts_file("web", "web", [], {}, {}).splitlines()
