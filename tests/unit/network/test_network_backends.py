# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import os

import pytest
from sandlot import network
from sandlot.errors import SpecError
from sandlot.kernel.netns import HOST
from sandlot.network.backends import BACKENDS, State
from sandlot.site import Site
from sandlot.spec.netmode import network_mode

SITE = Site("/root-of-the-test")
PIN = "/root-of-the-test/run/sandlot/{}/ns/net"
NOTHING = State(dict.fromkeys(BACKENDS))


@pytest.mark.parametrize(
    ("mode", "path", "own"),
    [
        ("bridge", PIN.format("web"), True),
        ("none", PIN.format("web"), True),
        ("host", HOST, False),
        ("container:db", PIN.format("db"), False),
        ("ns:/run/netns/a:b", "/run/netns/a:b", False),
    ],
)
def test_each_mode_has_a_namespace(mode: str, path: str, own: bool) -> None:
    assert network.netns_of(SITE, "web", network_mode("network_mode", mode)) == (path, own)


@pytest.mark.parametrize("mode", ["none", "host", "container:db", "ns:/run/netns/a"])
def test_modes_without_links_have_nothing_to_do(mode: str) -> None:
    desired = network.Desired({}, [], members=[network.Member("web", mode)])
    assert network.plan(SITE, desired, NOTHING) == network.Plan([], {})
    backend = BACKENDS[mode.partition(":")[0]]
    assert backend.observe(SITE) is None and backend.unlink(SITE, ["web"], None) == []


@pytest.mark.parametrize(
    ("modes", "checked", "removed", "problem"),
    [
        ({"a": "container:b", "b": "bridge"}, ["a"], [], None),
        ({"a": "container:b", "b": "none"}, ["a"], [], None),
        ({"a": "container:b"}, ["a"], [], "names no sandbox of this host"),
        ({"a": "container:b"}, [], [], None),
        ({"a": "container:b", "b": "host"}, ["a"], [], "names one without a network of its own"),
        ({"a": "container:b"}, [], ["b"], "can't be removed: sandbox a shares its network"),
    ],
)
def test_partners(
    modes: dict[str, str], checked: list[str], removed: list[str], problem: str | None
) -> None:
    def check() -> None:
        network.check_partners(modes, changed=(), checked=checked, removed=removed)

    if problem is None:
        check()
        return
    with pytest.raises(SpecError, match=problem) as caught:
        check()
    assert caught.value.hint


def test_a_partner_that_the_run_changes_is_checked_for_those_it_leaves_alone() -> None:
    modes = {"a": "container:b", "b": "host"}
    with pytest.raises(SpecError, match="without a network of its own"):
        network.check_partners(modes, changed=["b"], checked=["b"], removed=[])


def test_a_pin_is_a_network_namespace_and_not_the_hosts(tmp_path: os.PathLike[str]) -> None:
    missing, file = f"{tmp_path}/missing", f"{tmp_path}/file"
    with open(file, "w", encoding="ascii"):
        pass
    for path, problem in ((missing, "No such file"), (file, "no network namespace"), (HOST, "own")):
        with pytest.raises(SpecError, match=problem) as caught:
            network.check_pins(SITE, {"a": f"ns:{path}"}, ["a"], may_be_made=False)
        assert caught.value.hint
    network.check_pins(SITE, {"a": f"ns:{missing}", "b": "bridge"}, ["a"], may_be_made=True)
