# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import struct

import pytest
from sandlot.kernel import netlink, nlmsg, rtnetlink


def message(kind, flags=0, body=b""):
    return nlmsg.message(kind, flags, body)


def address(text, index):
    body = netlink.ADDRESS.pack(2, 24, 0, 0, index)
    raw = bytes(int(part) for part in text.split("."))
    return body + nlmsg.ATTRIBUTE.pack(8, netlink.IFA_LOCAL) + raw


DONE = message(nlmsg.NLMSG_DONE)


class Replies:
    """A socket to a kernel that answers as told."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.requests = 0

    def send(self, data):
        self.requests += 1

    def recv(self, size):
        return self.replies.pop(0)


def test_loopback_is_found():
    with netlink.connect() as sock:
        links = {link.name: link for link in netlink.links(sock)}
        lo = netlink.link(sock, "lo")
        assert links["lo"] == lo
        assert (lo.index, lo.mac, lo.kind) == (1, "00:00:00:00:00:00", "")
        assert netlink.link(sock, "no-such-link") is None
        assert all(item.address.count("/") == 1 for item in netlink.addresses(sock))
        netlink.routes(sock)


def test_a_link_goes_away_between_its_name_and_its_number(monkeypatch):
    monkeypatch.setattr(netlink.socket, "if_nametoindex", lambda name: 2**31 - 1)
    with netlink.connect() as sock:
        assert netlink.link(sock, "gone") is None


def test_replies_in_several_datagrams():
    sock = Replies(
        message(netlink.RTM_NEWADDR, 2, address("10.0.0.1", 1))
        + message(netlink.RTM_NEWADDR, 2, address("10.0.0.2", 2)),
        message(netlink.RTM_NEWADDR, 2, address("10.0.0.3", 3)),
        DONE,
    )
    found = netlink.addresses(sock)
    assert [item.address for item in found] == ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24"]
    assert found[0].plain == "10.0.0.1"


def test_interrupted_dump_is_asked_again():
    torn = message(netlink.RTM_NEWADDR, netlink.NLM_F_DUMP_INTR, address("10.0.0.1", 1))
    whole = message(netlink.RTM_NEWADDR, 2, address("10.0.0.2", 1))
    sock = Replies(torn, DONE, whole, DONE)
    assert [item.address for item in netlink.addresses(sock)] == ["10.0.0.2/24"]
    assert sock.requests == 2


@pytest.fixture
def clock(monkeypatch):
    """Time passes in pauses only; the list has the length of each."""
    pauses: list[float] = []
    monkeypatch.setattr(netlink.time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(netlink.time, "sleep", pauses.append)
    return pauses


TORN = message(nlmsg.NLMSG_DONE, netlink.NLM_F_DUMP_INTR)


def test_changes_are_waited_for(clock):
    whole = message(netlink.RTM_NEWADDR, 2, address("10.0.0.2", 1))
    found = netlink.addresses(Replies(*[TORN] * 200, whole, DONE))
    assert [item.address for item in found] == ["10.0.0.2/24"]
    assert clock[:3] == [0.001, 0.002, 0.004] and max(clock) == clock[-1] == 0.1
    assert len(clock) == 200


def test_changes_that_never_end_are_told(clock):
    with pytest.raises(InterruptedError, match="changed all of 30 seconds"):
        netlink.addresses(Replies(*[TORN] * 1000))
    assert 30 <= sum(clock) < 31


def test_error_of_the_kernel():
    refusal = message(nlmsg.NLMSG_ERROR, 0, struct.pack("=i", -1) + bytes(16))
    with pytest.raises(PermissionError):
        netlink.routes(Replies(refusal))


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\0\0\0\0", b"\3\0\1\0"])
def test_attributes_of_nonsense_length(garbage):
    assert nlmsg.attributes(garbage) == {}


def test_a_veth_pair_has_one_queue_at_each_end() -> None:
    """The kernel would make one for each processor of the host."""
    ends = ("sb-a", "02:00:00:00:00:01"), ("eth0", "02:00:00:00:00:02")
    dummy, dummy, dummy, body = rtnetlink.new_veth(*ends, master=1, netns=3, mtu=1500)
    for attribute in (rtnetlink.IFLA_NUM_TX_QUEUES, rtnetlink.IFLA_NUM_RX_QUEUES):
        assert body.count(struct.pack("=HHI", 8, attribute, 1)) == 2
