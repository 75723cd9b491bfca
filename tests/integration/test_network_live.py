# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks of a running sandbox change under it: the workload goes on, the kernel follows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from netmode_fixtures import declare_networks, output, run_inside, workload
from sandboxes import until
from sandlot import converge, network
from sandlot.converge import Result
from sandlot.errors import SpecError

pytestmark = needs_root

ECHO = ["sh", "-c", "exec nc -ll -p 7 -e cat"]
FIRST = {"name": "default"}


@pytest.fixture
def host(host: Deployment) -> Deployment:
    declare_networks(host, one={}, two={"mtu": 1400}, quiet={"isolated": True})
    return host


def web(*networks: dict[str, Any]) -> dict[str, Any]:
    return sandbox("web", command=ECHO, networks=list(networks), capabilities=["NET_RAW"])


def changed(host: Deployment, *specs: dict[str, Any]) -> Result:
    """A change that is said beforehand as it is done, and leaves the workload of "web" alone."""
    before = workload(host, "web")
    checked = host.run(*specs, check=True)
    done = host.converged(*specs)
    assert checked.actions == done.actions and checked.diff == done.diff
    assert workload(host, "web") == before
    assert not [line for line in done.actions if line.endswith("(restart)")], done.actions
    return done


def interfaces(host: Deployment, name: str = "web") -> dict[str, tuple[str, list[str]]]:
    """MAC and IPv4 addresses of each interface, as the kernel has them."""
    command = ["nsenter", f"--net=/proc/{host.pid(name)}/ns/net", "ip", "-json", "address"]
    links = json.loads(subprocess.check_output(command))
    return {
        link["ifname"]: (
            link["address"],
            [item["local"] for item in link["addr_info"] if item["family"] == "inet"],
        )
        for link in links
        if link["ifname"] != "lo"
    }


def default_route(host: Deployment) -> list[str]:
    return output(host, "web", "ip", "route", "show", "default").split()


def address(host: Deployment, network: str, name: str = "web") -> str:
    found = host.info(name)["interfaces"]
    return str(next(i["ipv4"] for i in found if i["network"] == network).partition("/")[0])


def link_of(host: Deployment, network: str) -> str:
    found = host.info("web")["interfaces"]
    return str(next(i["link"] for i in found if i["network"] == network))


def echoes(connection: socket.socket, word: bytes) -> bool:
    connection.sendall(word)
    return connection.recv(64) == word


def connected(host: Deployment, network: str) -> socket.socket:
    """A connection to the workload, once it listens."""
    place = (address(host, network), 7)
    connection: socket.socket = until(lambda: attempt(place), what=f"connecting to {place}")
    assert echoes(connection, b"first")
    return connection


def attempt(place: tuple[str, int]) -> socket.socket | None:
    try:
        return socket.create_connection(place, timeout=10)
    except ConnectionRefusedError:
        return None


def test_a_second_network_comes_and_goes(host: Deployment) -> None:
    host.converged(web(FIRST))
    with connected(host, "default") as connection:
        result = changed(host, web(FIRST, {"name": "one"}))
        assert result.actions[0].startswith('web: networks [{"name": "default"}] -> ')
        one = address(host, "one")
        assert f"web: plug eth1 {one}/24 into one" in result.actions
        assert interfaces(host)["eth1"][1] == [one]
        connected(host, "one").close()
        gone = link_of(host, "one")
        result = changed(host, web(FIRST))
        assert "web: unplug eth1" in result.actions
        assert list(interfaces(host)) == ["eth0"]
        assert not os.path.exists(f"/sys/class/net/{gone}")
        assert default_route(host)[:3] == ["default", "via", f"{host.prefix}.0.1"]
        assert echoes(connection, b"last")


def test_address_and_mac_of_the_second_interface(host: Deployment) -> None:
    peer = sandbox("peer", networks=[{"name": "one"}], capabilities=["NET_RAW"])
    host.converged(web(FIRST, {"name": "one"}), peer)
    with connected(host, "default") as connection:
        asked = {"name": "one", "ipv4_address": f"{host.prefix}.16.77"}
        changed(host, web(FIRST, asked), peer)
        assert interfaces(host)["eth1"][1] == [f"{host.prefix}.16.77"]
        connected(host, "one").close()
        asked["mac_address"] = "02:00:00:00:00:77"
        changed(host, web(FIRST, asked), peer)
        assert interfaces(host)["eth1"] == ("02:00:00:00:00:77", [f"{host.prefix}.16.77"])
        output(host, "peer", "ping", "-c", "1", "-W", "10", f"{host.prefix}.16.77")
        connected(host, "one").close()
        # An address stays when it is no longer asked for; a derived MAC address comes back.
        changed(host, web(FIRST, {"name": "one"}), peer)
        mac, addresses = interfaces(host)["eth1"]
        assert mac != "02:00:00:00:00:77" and addresses == [f"{host.prefix}.16.77"]
        connected(host, "one").close()
        assert echoes(connection, b"last")


def test_address_of_the_first_interface(host: Deployment) -> None:
    host.converged(web(FIRST))
    changed(host, web({"name": "default", "ipv4_address": f"{host.prefix}.2.9"}))
    assert interfaces(host)["eth0"][1] == [f"{host.prefix}.2.9"]
    assert default_route(host)[:3] == ["default", "via", f"{host.prefix}.0.1"]
    connected(host, "default").close()
    output(host, "web", "ping", "-c", "1", "-W", "10", f"{host.prefix}.0.1")


def test_interfaces_keep_their_names_and_the_first_network_leads_outside(host: Deployment) -> None:
    host.converged(web(FIRST, {"name": "one"}))
    before = interfaces(host)
    with connected(host, "one") as connection:
        changed(host, web({"name": "one"}, FIRST))
        assert interfaces(host) == before
        assert default_route(host)[:5] == ["default", "via", f"{host.prefix}.16.1", "dev", "eth1"]
        changed(host, web({"name": "one"}))
        assert interfaces(host) == {"eth1": before["eth1"]}
        changed(host, web({"name": "two"}, {"name": "one"}))
        assert set(interfaces(host)) == {"eth0", "eth1"}
        assert default_route(host)[:5] == ["default", "via", f"{host.prefix}.17.1", "dev", "eth0"]
        assert echoes(connection, b"last")


def mtu(host: Deployment, ifname: str) -> str:
    return Path(f"/proc/{host.pid('web')}/root/sys/class/net/{ifname}/mtu").read_text().strip()


def test_another_network_in_place_of_one_brings_its_settings(host: Deployment) -> None:
    host.converged(web({"name": "two"}))
    assert mtu(host, "eth0") == "1400"
    changed(host, web({"name": "one"}))
    assert mtu(host, "eth0") == "1500"
    connected(host, "one").close()
    changed(host, web({"name": "two"}))
    assert mtu(host, "eth0") == "1400"
    connected(host, "two").close()


def set_network(host: Deployment, **options: Any) -> Result:
    """The module sandbox_network for network "one"; what it does is said before, and once."""
    raw = {"name": "one", "ipv4_subnet": f"{host.prefix}.16.0/24", **options}
    wanted = network.normalise(host.paths, [raw])
    request = converge.request(None, networks=wanted)
    checked = converge.converge(host.paths, replace(request, check=True))
    done = converge.converge(host.paths, request)
    assert checked.actions == done.actions and not done.failed
    assert converge.converge(host.paths, request).actions == []
    return done


def ends(host: Deployment) -> list[str]:
    """The links between host and sandbox, from the bridge on."""
    return [host.paths.bridge("one"), link_of(host, "one")]


def sizes(host: Deployment) -> set[str]:
    outside = [Path(f"/sys/class/net/{link}/mtu").read_text().strip() for link in ends(host)]
    return {*outside, mtu(host, "eth0")}


def test_running_sandboxes_follow_their_network(host: Deployment) -> None:
    """Also those that the run does not list, and back to the defaults."""
    host.converged(web({"name": "one"}))
    with connected(host, "one") as connection:
        for wanted in (1400, 1300, None):
            set_network(host, mtu=wanted)
            assert sizes(host) == {str(wanted or 1500)}
        set_network(host, dns_servers=["192.0.2.53"], isolated=True)
        port = Path(f"/sys/class/net/{link_of(host, 'one')}/brport/isolated")
        assert host.inside("web", "/etc/resolv.conf").startswith("nameserver 192.0.2.53\n")
        assert port.read_text() == "1\n"
        set_network(host)
        assert "192.0.2.53" not in host.inside("web", "/etc/resolv.conf")
        assert port.read_text() == "0\n"
        assert echoes(connection, b"last")


def test_an_mtu_too_small_for_ipv6_leaves_no_ipv6_behind(host: Deployment) -> None:
    """The kernel starts IPv6 with its own settings when an MTU becomes large enough."""
    host.converged(web({"name": "one"}))
    set_network(host, mtu=600)
    assert sizes(host) == {"600"}
    set_network(host)
    assert sizes(host) == {"1500"}
    for link in ends(host):
        setting = Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
        assert setting.read_text() == "1\n"
    command = ["nsenter", f"--net=/proc/{host.pid('web')}/ns/net", "ip", "-6", "address", "show"]
    assert subprocess.check_output([*command, "dev", "eth0"]) == b""
    connected(host, "one").close()


def test_no_network_at_all_and_back(host: Deployment) -> None:
    host.converged(web(FIRST, {"name": "one"}))
    result = changed(host, web())
    assert "web: unplug eth0, eth1" in result.actions
    assert interfaces(host) == {} and default_route(host) == []
    assert "127.0.1.1\tweb" in host.inside("web", "/etc/hosts")
    changed(host, web(FIRST))
    connected(host, "default").close()


def test_who_shares_a_network_meets_its_changes(host: Deployment) -> None:
    side = sandbox("side", network_mode="container:web")
    host.converged(web(FIRST), side)
    before = workload(host, "side")
    changed(host, web(FIRST, {"name": "one"}), side)
    assert interfaces(host, "side") == interfaces(host)
    assert address(host, "one") in host.inside("side", "/etc/hosts")
    assert workload(host, "side") == before


def test_published_ports_follow_the_first_network(host: Deployment) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    ports = {"published_ports": [f"127.0.0.1:{port}:7"]}
    host.converged({**web(FIRST), **ports})
    for networks in ([{"name": "one"}, FIRST], [{"name": "one"}], [FIRST]):
        changed(host, {**web(*networks), **ports})
        with until(lambda: attempt(("127.0.0.1", port)), what="connecting") as connection:
            assert echoes(connection, b"x")


def test_what_is_held_of_a_broken_record_follows(host: Deployment) -> None:
    """The addresses of a sandbox with a damaged record are not given to others."""
    host.converged(web(FIRST))
    changed(host, web({"name": "default", "ipv4_address": f"{host.prefix}.2.9"}))
    record = Path(host.paths.sandbox("web").record)
    kept = record.read_text()
    record.write_text("{")
    try:
        taken = [{"name": "default", "ipv4_address": f"{host.prefix}.2.9"}]
        with pytest.raises(SpecError, match="in use by sandbox web"):
            host.run(sandbox("other", networks=taken))
    finally:
        record.write_text(kept)


def names(host: Deployment, name: str) -> dict[str, set[str]]:
    """Names by address, beyond the loopback ones."""
    lines = [line.split() for line in host.inside(name, "/etc/hosts").splitlines()]
    return {words[0]: set(words[1:]) for words in lines if words[0] not in ("127.0.0.1", "::1")}


def test_aliases_are_live_and_of_their_network_only(host: Deployment) -> None:
    peers = [
        sandbox("near", networks=[{"name": "one"}], capabilities=["NET_RAW"]),
        sandbox("far", networks=[{"name": "two"}], capabilities=["NET_RAW"]),
        sandbox("both", networks=[{"name": "two"}, {"name": "one"}]),
    ]
    host.converged(web({"name": "one"}), *peers)
    pid = workload(host, "near")
    changed(host, web({"name": "one", "aliases": ["API", "www.example"]}), *peers)
    mine = address(host, "one")
    assert names(host, "web")[mine] == {"web", "api", "www.example"}
    assert names(host, "near")[mine] == names(host, "both")[mine] == {"web", "api", "www.example"}
    assert mine not in names(host, "far")
    assert names(host, "near").keys() == {
        address(host, "one", "near"),
        mine,
        address(host, "one", "both"),
    }
    output(host, "near", "ping", "-c", "1", "-W", "10", "www.example")
    assert run_inside(host, "far", "ping", "-c", "1", "-W", "10", "api").returncode
    changed(host, web({"name": "one", "aliases": ["api"]}), *peers)
    assert names(host, "near")[mine] == {"web", "api"}
    changed(host, web({"name": "one"}), *peers)
    assert names(host, "near")[mine] == {"web"}
    assert workload(host, "near") == pid


def test_isolated_networks_list_nobody(host: Deployment) -> None:
    quiet = [{"name": "quiet"}]
    host.converged(web(*quiet), sandbox("other", networks=quiet))
    assert set(names(host, "web")) == {address(host, "quiet")}
    assert set(names(host, "other")) == {address(host, "quiet", "other")}


@pytest.mark.parametrize("alias", ["other", "OTHER", "taken"])
def test_an_alias_of_somebody_else_is_refused(host: Deployment, alias: str) -> None:
    other = sandbox("other", networks=[{"name": "one", "aliases": ["taken"]}])
    host.converged(web({"name": "one"}), other)
    with pytest.raises(SpecError, match="is a name of sandbox (other|web) on network one"):
        host.run(web({"name": "one", "aliases": [alias]}), other)
    # On another network it means nobody else.
    host.converged(web({"name": "one"}, {"name": "two", "aliases": [alias]}), other)


def test_who_gets_the_address_of_another_is_reached_at_once(host: Deployment) -> None:
    """The host and its neighbours knew that address with another MAC address."""
    serve = ["sh", "-c", "exec httpd -f -p 80 -h /etc"]
    where = [{"name": "one"}]
    keep = sandbox("keep", networks=where)
    ask = ["wget", "-q", "-O-", "http://{}/hostname"]
    places = set()
    for name in ("aa", "bb"):
        host.converged(keep, sandbox(name, command=serve, networks=where), purge=True)
        address = host.info(name)["addresses"][0]
        places.add(address)
        until(partial(is_open, address, 80))
        command = [word.format(address) for word in ask]
        assert output(host, "keep", *command) == f"{name}\n"
    assert len(places) == 1


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3).close()
    except ConnectionRefusedError:
        return False
    return True
