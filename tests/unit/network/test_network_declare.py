# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from sandlot.errors import SpecError, StateError
from sandlot.network.common import declare
from sandlot.network.common.model import Interface, Network, identity, owner_mark, sandbox_mac
from sandlot.site import Site
from sandlot.spec.addresses import any_addresses
from sandlot.spec.option import Option
from sandlot.spec.table import networks

GOOD = {"name": "lan", "ipv4_subnet": "10.78.0.0/24"}
# Found by trying: their digests begin with the same 40 bits.
COLLIDE_BRIDGE = ("n2246507", "n2427115")
DUAL = {**GOOD, "ipv6_subnet": "fd78::/64"}

REFUSED = [
    ({}, "name", "no value"),
    ({"name": ""}, "name", "is not a network name"),
    ({"name": "../x"}, "name", "is not a network name"),
    ({"name": "-x"}, "name", "is not a network name"),
    ({"name": "a\n"}, "name", "is not a network name"),
    ({"name": "аdmin"}, "name", "is not a network name"),
    ({"name": "a" * 64}, "name", "is not a network name"),
    ({"name": "lan"}, "ipv4_subnet", "is missing for network lan"),
    ({**GOOD, "ipv4_subnet": "10.78.0.1/24"}, "ipv4_subnet", "host bits set"),
    ({**GOOD, "ipv4_subnet": "10.78.0.0/31"}, "ipv4_subnet", "no room"),
    ({**GOOD, "ipv4_subnet": "fd00::/64"}, "ipv4_subnet", "is not an IPv4 subnet"),
    ({**GOOD, "ipv4_subnet": "none"}, "ipv4_subnet", "is not an IPv4 subnet"),
    ({**GOOD, "ipv4_subnet": "127.0.0.0/8"}, "ipv4_subnet", "not a range hosts"),
    ({**GOOD, "ipv4_subnet": "169.254.0.0/16"}, "ipv4_subnet", "not a range hosts"),
    ({**GOOD, "ipv4_subnet": "224.0.0.0/8"}, "ipv4_subnet", "not a range hosts"),
    ({**GOOD, "ipv4_subnet": "0.0.0.0/0"}, "ipv4_subnet", "not a range hosts"),
    ({**GOOD, "ipv4_subnet": "240.0.0.0/8"}, "ipv4_subnet", "not a range hosts"),
    ({**GOOD, "ipv4_gateway": "10.79.0.1"}, "ipv4_gateway", "no host address in 10.78.0.0/24"),
    ({**GOOD, "ipv4_gateway": "10.78.0.0"}, "ipv4_gateway", "no host address"),
    ({**GOOD, "ipv4_gateway": "10.78.0.255"}, "ipv4_gateway", "no host address"),
    ({**GOOD, "ipv4_gateway": "x"}, "ipv4_gateway", "is not an IPv4 address"),
    ({**GOOD, "ipv6_subnet": "fd78::1/64"}, "ipv6_subnet", "host bits set"),
    ({**GOOD, "ipv6_subnet": "fd78::/127"}, "ipv6_subnet", "no room"),
    ({**GOOD, "ipv6_subnet": "10.79.0.0/24"}, "ipv6_subnet", "is not an IPv6 subnet"),
    ({**GOOD, "ipv6_subnet": "fe80::/64"}, "ipv6_subnet", "not a range hosts"),
    ({**GOOD, "ipv6_subnet": "ff02::/64"}, "ipv6_subnet", "not a range hosts"),
    ({**GOOD, "ipv6_subnet": "::/64"}, "ipv6_subnet", "not a range hosts"),
    ({**GOOD, "ipv6_subnet": "::ffff:10.0.0.0/120"}, "ipv6_subnet", "not a range hosts"),
    ({**GOOD, "ipv6_gateway": "fd78::1"}, "ipv6_gateway", "has no subnet"),
    ({**DUAL, "ipv6_gateway": "fd79::1"}, "ipv6_gateway", "no host address in fd78::/64"),
    ({**DUAL, "ipv6_gateway": "fd78::"}, "ipv6_gateway", "no host address"),
    ({**DUAL, "ipv6_gateway": "10.78.0.1"}, "ipv6_gateway", "is not an IPv6 address"),
    ({**DUAL, "ipv6_gateway": "fd78::1%lan"}, "ipv6_gateway", "has a scope"),
    ({**DUAL, "mtu": 1279}, "mtu", "too small for IPv6"),
    ({**GOOD, "mtu": 100}, "mtu", "use a number from 576"),
    ({**GOOD, "mtu": 70000}, "mtu", "is out of range"),
    ({**GOOD, "dns_servers": ["resolver"]}, "dns_servers[0]", "is not an IP address"),
    ({**GOOD, "driver": "bridge"}, "driver", "is not an option"),
]


@pytest.mark.parametrize(("raw", "option", "problem"), REFUSED)
def test_refused(raw, option, problem):
    with pytest.raises(SpecError, match=problem) as caught:
        declare.normalise(Site(), [raw])
    assert caught.value.option == f"networks[0].{option}"
    assert caught.value.hint


def test_defaults():
    networks = declare.normalise(Site(), [{"name": "default"}, GOOD])
    assert networks["default"] == Network("default", "sandlot0", "10.77.0.0/22", "10.77.0.1")
    assert networks["lan"].ipv4_gateway == "10.78.0.1"
    assert networks["default"].ranges()[0].subnet.num_addresses > 1000


def test_unset_options_are_defaults():
    raw = {**GOOD, "ipv4_gateway": None, "mtu": None, "dns_servers": ["::1", "1.1.1.1"]}
    network = declare.normalise(Site(), [raw])["lan"]
    assert network.dns_servers == ("::1", "1.1.1.1")
    assert network.mtu is None


@pytest.mark.parametrize(
    "subnet", ["10.77.0.0/22", "10.77.1.0/24", "10.64.0.0/10", "10.77.3.252/30"]
)
def test_overlapping_networks(subnet):
    with pytest.raises(SpecError, match="overlaps"):
        declare.normalise(Site(), [{"name": "default"}, {"name": "b", "ipv4_subnet": subnet}])


@pytest.mark.parametrize("subnet", ["fd78::/64", "fd78::/48", "fd78::8000/113"])
def test_overlapping_networks_in_ipv6(subnet):
    other = {"name": "b", "ipv4_subnet": "10.79.0.0/24", "ipv6_subnet": subnet}
    with pytest.raises(SpecError, match="overlaps") as caught:
        declare.normalise(Site(), [DUAL, other])
    assert caught.value.option == "ipv6_subnet"


def test_both_families():
    network = declare.normalise(Site(), [DUAL])["lan"]
    assert network.gateway_interfaces == ("10.78.0.1/24", "fd78::1/64")
    assert network.bridge_addresses == ("10.78.0.1/24", "fd78::1/64", "fe80::1/64")
    fixed = declare.normalise(Site(), [{**DUAL, "ipv6_gateway": "FD78:0::FF"}])["lan"]
    assert fixed.ipv6_gateway == "fd78::ff"


def test_file_of_a_version_without_ipv6(tmp_path):
    network = declare.normalise(Site(), [GOOD])["lan"]
    data = network.to_json()
    del data["ipv6_subnet"], data["ipv6_gateway"]
    assert Network.from_json(Site(), data) == network


def test_two_names_for_one_bridge():
    names = COLLIDE_BRIDGE
    assert Site().bridge(names[0]) == Site().bridge(names[1])
    raw = [
        {"name": name, "ipv4_subnet": f"10.{number}.0.0/24"} for number, name in enumerate(names)
    ]
    with pytest.raises(SpecError, match="the same bridge") as caught:
        declare.normalise(Site(), raw)
    assert caught.value.hint


def test_listed_twice():
    with pytest.raises(SpecError, match="the same name twice"):
        declare.normalise(Site(), [GOOD, GOOD])


def test_stored_and_loaded(tmp_path):
    paths = Site(str(tmp_path))
    Path(paths.state).mkdir(parents=True)
    raw = {**GOOD, "dns_servers": ["1.1.1.1"], "mtu": 1400, "isolated": True}
    networks = declare.normalise(paths, [{"name": "default"}, raw])
    assert declare.load(paths) == {}
    declare.save(paths, networks)
    assert declare.load(paths) == networks


def test_a_network_is_written_as_dd050e5_reads_it():
    """Later options are in the file where they are set: it refuses fields that it does not know."""
    earlier = {
        **{"name": "lan", "ipv4_subnet": "10.78.0.0/24", "ipv4_gateway": "10.78.0.1"},
        **{"ipv6_subnet": None, "ipv6_gateway": None, "nat": True, "isolated": False, "mtu": None},
        **{"dns_servers": [], "internal": False, "egress": None, "host_access": []},
    }
    assert declare.normalise(Site(), [GOOD])["lan"].to_json() == earlier, "needs later=True"
    assert {row.name for row in networks.OPTIONS if not row.later} == set(earlier)


def test_a_field_that_is_left_out_of_the_file_has_the_default_of_its_row():
    usual = {field.name: field.default for field in fields(Network)}
    required = {"name", "ipv4_subnet", "ipv4_gateway"}
    rows = [row for row in networks.OPTIONS if row.name not in required]
    assert [row.name for row in rows if row.value(None) != usual[row.name]] == []


@dataclass(frozen=True)
class Newer(Network):
    naps: tuple[str, ...] = ()


def test_a_later_option_is_stored_where_it_is_set(monkeypatch):
    before = declare.default(Site())
    facts = {"default": [], "elements": "str", "later": True}
    row = Option("naps", "list", any_addresses, ["Naps."], **facts)
    monkeypatch.setattr(networks, "OPTIONS", (*networks.OPTIONS, row))
    usual = Newer(**vars(before))
    assert "naps" not in usual.to_json()
    for network in (usual, replace(usual, naps=("192.0.2.1",))):
        stored = json.loads(json.dumps(network.to_json()))
        assert Newer.from_json(Site(), stored) == network
    assert stored["naps"] == ["192.0.2.1"]


@pytest.mark.parametrize("option", ["dns_servers", "egress", "host_access"])
def test_a_stored_list_is_validated(option):
    stored = {**declare.default(Site()).to_json(), option: {"x": []}}
    with pytest.raises(SpecError, match=option):
        Network.from_json(Site(), stored)


def test_default_network_is_implicit(tmp_path):
    paths = Site(str(tmp_path))
    assert list(declare.load_for(paths, ["lan"])) == []
    assert list(declare.load_for(paths, ["lan", "default"])) == ["default"]


@pytest.mark.parametrize("content", [{}, {"networks": [{}]}, {"networks": [{"name": "a", "x": 1}]}])
def test_unusable_file(tmp_path, content):
    paths = Site(str(tmp_path))
    Path(paths.state).mkdir(parents=True)
    Path(paths.networks_file).write_text(json.dumps({"schema": 1, **content}))
    with pytest.raises(StateError, match="networks"):
        declare.load(paths)


def test_interface_json():
    interface = Interface(
        "web", "default", "eth0", "sb-1", "02:00:00:00:00:01", "10.77.0.2/22", "10.77.0.1"
    )
    assert Interface.from_json("web", interface.to_json()) == interface
    assert "sandbox" not in interface.to_json()
    assert (interface.address, interface.prefix) == ("10.77.0.2", 22)


def test_interface_of_both_families():
    interface = Interface(
        "web", "default", "eth0", "sb-1", "02:00:00:00:00:01", "10.77.0.2/22", "10.77.0.1",
        "fd77::2/64", "fd77::1",
    )  # fmt: skip
    assert Interface.from_json("web", interface.to_json()) == interface
    assert interface.addresses == ("10.77.0.2", "fd77::2")
    assert interface.link_local == "fe80::ff:fe00:1"
    assert interface.inner_addresses[-1] == "fe80::ff:fe00:1/64"


def test_interface_without_ipv6_reads_as_it_did():
    """Its text is part of the digest of the namespaces: an upgrade must restart nothing."""
    interface = Interface("web", "default", "eth0", "sb-1", "02::", "10.77.0.2/22", "10.77.0.1")
    assert list(interface.to_json()) == ["network", "ifname", "link", "mac", "ipv4", "gateway"]


def test_identities_depend_on_root_and_name():
    here, there = Site(), Site("/elsewhere")
    macs = {
        identity(here, "sandlot0"),
        identity(there, "sandlot0"),
        identity(here, "sb-1"),
        sandbox_mac(here, "web", "eth0"),
        sandbox_mac(here, "web", "eth1"),
        sandbox_mac(there, "web", "eth0"),
    }
    assert len(macs) == 6
    assert all(mac.startswith("02:") and len(mac) == 17 for mac in macs)
    assert owner_mark(here) != owner_mark(there)
