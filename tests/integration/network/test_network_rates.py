# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Bandwidth limits, with real traffic between namespaces, and what others do to them."""

from __future__ import annotations

import os
import socket
import time

import pytest
from converge_fixtures import deployed, sandbox
from lab import call, ip, run
from sandlot import network
from sandlot.errors import ForeignError, HostError
from sandlot.kernel import netlink
from sandlot.kernel.namespaces import CLONE_NEWNET, setns
from sandlot.network import Rates
from sandlot.network.bridge import rates

PORT = 5001
WINDOW = 0.5
LOW = 4_000_000
# Bare links of this kind pass gigabits; so much slower is no matter of a busy machine.
FAR = 20


@pytest.fixture
def pair(lab):
    lab.add("a", "b")
    lab.converge()
    return lab


def received(lab, source, target):
    """Bits a second that arrive at ``target`` from ``source`` over TCP."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with netlink.opened(lab.pin(target)) as fd:
            setns(fd, CLONE_NEWNET)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", PORT))
            listener.listen()
            os.write(writing, b".")
            connection, _ = listener.accept()
            os.write(writing, str(_rate(connection)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        pipe.read(1)
        call(lab.pin(source), _send, lab.address(target))
        result = pipe.read()
    os.waitpid(pid, 0)
    return float(result)


def _rate(connection):
    """What the window of a bucket lets through at once is not counted."""
    connection.settimeout(10)
    connection.recv(1 << 17, socket.MSG_WAITALL)
    start, count = time.monotonic(), 0
    while (passed := time.monotonic() - start) < WINDOW:
        count += len(connection.recv(1 << 20))
    connection.close()
    return count * 8 / passed


def _send(address):
    with socket.create_connection((address, PORT), timeout=10) as sock:
        try:
            while True:
                sock.sendall(bytes(1 << 16))
        except ConnectionError:
            return


def limited(lab, source, target):
    return received(lab, source, target) < LOW * 2


WAYS = {"ingress": ("b", "a"), "egress": ("a", "b")}


@pytest.mark.parametrize("way", WAYS)
def test_set_changed_removed(pair, way):
    there, back = WAYS[way], WAYS[way][::-1]
    free = received(pair, *there)
    assert free > LOW * FAR
    pair.rates["a"] = Rates(**{way: LOW})
    assert pair.plan() == pair.converge() != []
    assert pair.plan() == []
    slow = received(pair, *there)
    assert LOW / 4 < slow < LOW * 2
    assert received(pair, *back) > LOW * FAR, "the other way is limited too"
    pair.rates["a"] = Rates(**{way: LOW * 100})
    assert pair.converge() and pair.plan() == []
    assert LOW * 10 < received(pair, *there) < LOW * 200
    del pair.rates["a"]
    assert pair.plan() == ["a: lift the limits of eth0"]
    assert pair.converge() and pair.plan() == []
    assert received(pair, *there) > LOW * FAR


def test_both_ways_from_the_start_and_nothing_left(lab):
    before = lab.fingerprint()
    lab.add("a", "b")
    lab.rates["a"] = Rates(LOW, 2 * LOW)
    assert "a: limit eth0 (in 4mbit, out 8mbit)" in lab.plan()
    lab.converge()
    assert lab.plan() == []
    assert limited(lab, "b", "a") and received(lab, "a", "b") < LOW * 4
    lab.teardown()
    assert lab.fingerprint() == before


def test_a_change_keeps_connections_and_queue(pair):
    """The bucket is changed in place: what waits in it is not thrown away."""
    pair.rates["a"] = Rates(ingress=LOW)
    pair.converge()
    link = pair.sandboxes["a"][0].link
    before = run(pair.host, "tc", "-s", "qdisc", "show", "dev", link)
    run(pair.host, "busybox", "ping", "-c", "3", "-i", "0.01", pair.address("a"), check=False)
    counted = run(pair.host, "tc", "-s", "qdisc", "show", "dev", link)
    assert counted != before
    pair.rates["a"] = Rates(ingress=2 * LOW)
    pair.converge()
    after = run(pair.host, "tc", "-s", "qdisc", "show", "dev", link)
    assert counted.splitlines()[1] == after.splitlines()[1], "the counters began anew"


LINK, SHAPER = "LINK", "SHAPER"
DAMAGE = {
    "bucket deleted": ("tc", "qdisc", "del", "dev", LINK, "root"),
    "bucket widened": "tc qdisc change dev LINK root tbf rate 1gbit burst 1m limit 9m",
    "ingress deleted": ("tc", "qdisc", "del", "dev", LINK, "ingress"),
    "filter deleted": ("tc", "filter", "del", "dev", LINK, "ingress"),
    "shaper deleted": ("ip", "link", "del", SHAPER),
    "shaper down": ("ip", "link", "set", SHAPER, "down"),
    "its bucket deleted": ("tc", "qdisc", "del", "dev", SHAPER, "root"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_repaired(pair, damage):
    pair.rates["a"] = Rates(LOW, LOW)
    pair.converge()
    names = {LINK: pair.sandboxes["a"][0].link, SHAPER: pair.paths.shaper("a", "eth0")}
    command = DAMAGE[damage]
    command = command.split() if isinstance(command, str) else command
    for word, name in names.items():
        command = [part.replace(word, name) for part in command]
    run(pair.host, *command)
    assert pair.plan() == ["a: limit eth0 (in 4mbit, out 4mbit)"]
    pair.converge()
    assert pair.plan() == []
    assert limited(pair, "a", "b") and limited(pair, "b", "a")


def test_deleted_link_comes_back_limited(pair):
    pair.rates["a"] = Rates(LOW, LOW)
    pair.converge()
    ip(pair.host, "link", "del", pair.sandboxes["a"][0].link)
    pair.converge()
    assert pair.plan() == []
    assert limited(pair, "a", "b") and limited(pair, "b", "a")


def test_unplugging_takes_the_shaper_along(pair):
    pair.rates["a"] = Rates(LOW, LOW)
    pair.converge()
    shaper = pair.paths.shaper("a", "eth0")
    assert shaper in run(pair.host, "ip", "link")

    def unplug():
        for operation in network.unlink(pair.paths, ["a"], network.observe(pair.paths)):
            operation.apply()

    call(pair.host, unplug)
    assert shaper not in run(pair.host, "ip", "link")


FOREIGN = {
    "root": "tc qdisc add dev LINK root handle 77: tbf rate 1gbit burst 1m limit 9m",
    "filter": "tc qdisc add dev LINK ingress; tc filter add dev LINK ingress prio 7 protocol ip "
    "u32 match ip dst 192.0.2.200/32 flowid 1:1",
    "clsact": "tc qdisc add dev LINK clsact",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_shaping_is_an_error_and_stays(pair, what):
    link = pair.sandboxes["a"][0].link
    run(pair.host, "sh", "-c", FOREIGN[what].replace(LINK, link))
    shown = [("tc", "qdisc", "show", "dev", link), ("tc", "filter", "show", "dev", link, "ingress")]
    before = [run(pair.host, *words) for words in shown]
    assert pair.plan() == [], "without a limit it is nobody's business"
    pair.rates["a"] = Rates(LOW) if what == "root" else Rates(egress=LOW)
    with pytest.raises(ForeignError, match=link):
        pair.converge()
    assert [run(pair.host, *words) for words in shown] == before
    pair.rates.clear()
    assert pair.plan() == []


def test_tenant_with_net_admin_can_not_lift_it(pair):
    """Whatever is done inside; the same commands on the host do lift it."""
    pair.rates["a"] = Rates(LOW, LOW)
    pair.converge()
    inside = "tc qdisc del dev eth0 root; tc qdisc del dev eth0 ingress; ip link set eth0 txqlen 1"
    run(pair.pin("a"), "sh", "-c", inside, check=False)
    assert limited(pair, "a", "b") and limited(pair, "b", "a")
    link = pair.sandboxes["a"][0].link
    run(pair.host, "sh", "-c", f"tc qdisc del dev {link} root; tc qdisc del dev {link} ingress")
    assert not limited(pair, "a", "b") and not limited(pair, "b", "a")


def test_what_the_kernel_lacks_is_refused_with_its_reason(pair, monkeypatch):
    """This kernel has no such discipline, which stands for one without tbf."""
    shown = [("ip", "-brief", "link"), ("tc", "qdisc", "show")]
    before = [run(pair.host, *words) for words in shown]

    def lacking(self, name, bucket):
        with self._explained(f"limit what {name} sends (kernel module sch_tbf)"):
            self._route.tc("add", "cake", socket.if_nametoindex(name), handle=0x10000)

    monkeypatch.setattr(rates.adapter.Links, "set_rate", lacking)
    monkeypatch.setattr(rates, "require_kernel", rates.require_kernel.__wrapped__)
    pair.rates["a"] = Rates(LOW)
    with pytest.raises(HostError, match="sch_tbf"):
        pair.converge()
    assert [run(pair.host, *words) for words in shown] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, links and cgroups")
def test_options_change_live_and_check_and_diff_tell_it():
    with deployed() as host:
        host.converged(sandbox("a"))
        pid = host.pid("a")
        for options in (
            {"ingress_rate": "10mbit"},
            {"ingress_rate": "20mbit", "egress_rate": "1.5mbit"},
            {"egress_rate": 1500000},
            {},
        ):
            checked = host.run(sandbox("a", **options), check=True)
            done = host.converged(sandbox("a", **options))
            assert checked.actions == done.actions != []
            assert checked.diff == done.diff
            assert set(done.diff["after"]["a"]) <= {f"{option} (live)" for option in RATES}
            assert host.pid("a") == pid
        rated = sandbox("a", **dict.fromkeys(RATES, "1mbit"))
        host.converged(rated, purge=True)
        host.converged(sandbox("a", networks=[]), purge=True)
        host.converged(rated, restart=True, purge=True)


RATES = ("ingress_rate", "egress_rate")
