# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import pytest
from sandlot.errors import SpecError
from sandlot.network import (
    Names,
    check_names,
    hosts_file,
    own_servers,
    resolv_conf,
    unreachable_resolvers,
)
from sandlot.network.bridge import announce
from sandlot.network.common.allocation import interface_names
from sandlot.network.common.model import Interface

STUB = "# managed\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
REAL = "nameserver 192.0.2.53\nnameserver ::1\nsearch example.org\n"

CASES = [
    ([], STUB, REAL, ["nameserver 192.0.2.53", "search example.org"]),
    ([], REAL, STUB, ["nameserver 192.0.2.53", "search example.org"]),
    (["1.1.1.1"], STUB, REAL, ["nameserver 1.1.1.1", "options edns0 trust-ad", "search lan"]),
    (["1.1.1.1"], None, None, ["nameserver 1.1.1.1"]),
    ([], "nameserver 2001:db8::1\n", None, ["nameserver 2001:db8::1"]),
    (
        [],
        "nameserver fe80::1%eth0\nnameserver 169.254.169.253\noptions rotate\n",
        None,
        ["options rotate"],
    ),
    ([], "nameserver fd20:ce::254\nnameserver 168.63.129.16\n", None, ["nameserver 168.63.129.16"]),
    ([], "nameserver 127.0.0.1\nnameserver 192.0.2.9\n", REAL, ["nameserver 192.0.2.9"]),
    ([], "nameserver 127.0.0.1\nsearch lan\n", "nameserver ::1\n", ["search lan"]),
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


def test_a_name_of_the_user_has_the_address_of_the_user():
    """A resolver would take the first line, or all."""
    web = Interface("web", "a", "eth0", "sb", "02", "10.0.0.2/24", "10.0.0.1", "fd00::2/64")
    neighbours = {"near": NEAR["near"], "web": [web]}
    extra = {"WEB": "203.0.113.9", "me": "203.0.113.8", "ip6-localhost": "203.0.113.7"}
    text = hosts_file("near", "me", NEAR["near"][:1], neighbours, extra, names=NAMES)
    assert text.splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-loopback",
        "10.0.0.3\tnear api side",
        "10.0.0.2\twww",
        "fd00::2\twww",
        "203.0.113.9\tWEB",
        "203.0.113.7\tip6-localhost",
        "203.0.113.8\tme",
    ]


def test_hosts_file_without_network():
    assert "127.0.1.1\tweb" in hosts_file("web", "web", [], {}, {}).splitlines()


def test_the_third_source_is_asked_last(tmp_path):
    sources = [str(tmp_path / name) for name in ("a", "b", "c")]
    (tmp_path / "a").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "c").write_text("nameserver 192.0.2.3\nsearch corp\n")
    assert resolv_conf([], sources) == "nameserver 192.0.2.3\nsearch corp\n"
    assert unreachable_resolvers(sources) == []
    (tmp_path / "c").write_text("nameserver 127.0.0.2\n")
    assert unreachable_resolvers(sources) == ["127.0.0.1", "127.0.0.2"]
    assert unreachable_resolvers([]) == []


SIX_FIRST = "".join(f"nameserver 2001:db8::{number}\n" for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("families", "text", "expected"),
    [
        ((4,), f"{SIX_FIRST}nameserver 192.0.2.1\n", ["192.0.2.1"]),
        (
            (4, 6),
            f"nameserver 192.0.2.1\n{SIX_FIRST}",
            ["192.0.2.1", *map("2001:db8::{}".format, (1, 2))],
        ),
        ((4,), SIX_FIRST, []),
    ],
)
def test_servers_are_of_the_families_of_the_sandbox(tmp_path, families, text, expected):
    """Resolvers read three lines and no more."""
    (tmp_path / "a").write_text(text)
    sources = [str(tmp_path / "a")]
    lines = resolv_conf([], sources, families=families).splitlines()
    assert lines == [f"nameserver {server}" for server in expected]
    assert bool(unreachable_resolvers(sources, families)) is not bool(expected)
    own = [line.split()[1] for line in text.splitlines()]
    assert own_servers(own, families) == expected


def test_another_source_has_a_server_of_the_family(tmp_path):
    sources = [str(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "a").write_text(SIX_FIRST)
    (tmp_path / "b").write_text("nameserver 192.0.2.3\n")
    assert resolv_conf([], sources, families=(4,)) == "nameserver 192.0.2.3\n"


def test_a_server_inside_the_sandbox_is_of_any_family():
    assert own_servers(["::1", "2001:db8::1"], (4,)) == ["::1"]


def test_in_the_hosts_network_its_stub_is_reachable(tmp_path):
    source = tmp_path / "resolv.conf"
    source.write_text(STUB)
    text = resolv_conf([], [str(source)], in_host_network=True)
    assert text.splitlines()[0] == "nameserver 127.0.0.53"


NEAR = {
    "web": [interface("web", "a", "10.0.0.2")],
    "near": [interface("near", "a", "10.0.0.3"), interface("near", "b", "10.1.0.3")],
}
NAMES = Names({("near", "a"): ("api",), ("web", "a"): ("www",)}, {"near": ("side",)})


def test_neighbours_have_aliases_and_sharers():
    lines = hosts_file("web", "web", NEAR["web"], NEAR, {}, names=NAMES).splitlines()
    assert lines[2:] == ["10.0.0.2\tweb www", "10.0.0.3\tnear api side"]


def test_who_shares_a_network_sees_it_as_its_owner_does():
    lines = hosts_file("side", "side", NEAR["near"], NEAR, {}, names=NAMES).splitlines()
    assert lines[2:] == [
        "10.0.0.3\tside near api",
        "10.1.0.3\tside near",
        "10.0.0.2\tweb www",
    ]


def test_isolated_networks_list_nobody():
    lines = hosts_file("web", "web", NEAR["web"], NEAR, {}, names=NAMES, silent={"a"}).splitlines()
    assert lines[2:] == ["10.0.0.2\tweb www"]


MEMBERS = {"web": ["a"], "near": ["a", "b"], "far": ["b"]}


@pytest.mark.parametrize(
    ("names", "holder"),
    [
        (Names({("web", "a"): ("near",)}), "near"),
        (Names({("web", "a"): ("NEAR",)}), "near"),
        (Names({("web", "a"): ("x",), ("near", "a"): ("x",)}), "web"),
        (Names({("web", "a"): ("side",)}, {"near": ("side",)}), "near"),
    ],
)
def test_a_name_means_one_sandbox(names, holder):
    with pytest.raises(SpecError, match=f"is a name of sandbox {holder} on network a") as caught:
        check_names(MEMBERS, names)
    assert caught.value.option == "aliases" and caught.value.hint


def test_names_of_other_networks_are_free():
    check_names(MEMBERS, Names({("web", "a"): ("far", "web"), ("near", "b"): ("x",)}))
    check_names(MEMBERS, Names({("web", "a"): ("x",), ("far", "b"): ("x",)}))


@pytest.mark.parametrize(
    ("networks", "kept", "expected"),
    [
        (["a", "b"], {}, {"a": "eth0", "b": "eth1"}),
        (["b"], {"a": "eth0", "b": "eth1"}, {"b": "eth1"}),
        (["b", "c"], {"a": "eth0", "b": "eth1"}, {"b": "eth1", "c": "eth0"}),
        (["b", "a"], {"a": "eth0", "b": "eth1"}, {"b": "eth1", "a": "eth0"}),
        (["c", "b", "d"], {"b": "eth1"}, {"c": "eth0", "b": "eth1", "d": "eth2"}),
    ],
)
def test_interfaces_keep_their_names(networks, kept, expected):
    before = [
        Interface("web", name, ifname, "sb", "02", "10.0.0.2/24", "10.0.0.1")
        for name, ifname in kept.items()
    ]
    assert interface_names(networks, before) == expected


def test_a_gratuitous_arp():
    item = Interface("web", "a", "eth0", "sb", "02:00:00:00:00:07", "10.0.0.2/24", "10.0.0.1")
    mac, address = bytes.fromhex("020000000007"), bytes((10, 0, 0, 2))
    assert announce.frames(item) == [
        b"\xff" * 6 + mac + bytes.fromhex("0806" "0001" "0800" "06" "04" "0001")
        + mac + address + bytes(6) + address
    ]  # fmt: skip
