# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from sandlot import network
from sandlot.errors import SpecError
from sandlot.kernel.netns import HOST
from sandlot.network import backends
from sandlot.network.backends import BACKENDS, Backend, State
from sandlot.network.common.resolution import Resolution
from sandlot.plan import Operation
from sandlot.site import Site
from sandlot.spec import OPTIONS
from sandlot.spec.netmode import KINDS, OWN, kind, network_mode

SITE = Site("/root-of-the-test")
PIN = "/root-of-the-test/run/sandlot/{}/ns/net"
NOTHING = State(dict.fromkeys(BACKENDS))


MODES = [
    ("bridge", PIN.format("web"), True),
    ("none", PIN.format("web"), True),
    ("host", HOST, False),
    ("container:db", PIN.format("db"), False),
    ("ns:/run/netns/a:b", "/run/netns/a:b", False),
]


@pytest.mark.parametrize(("mode", "path", "own"), MODES)
def test_each_mode_has_a_namespace(mode: str, path: str, own: bool) -> None:
    mode = network_mode("network_mode", mode)
    assert network.netns_of(SITE, "web", mode) == (path, own)
    assert (kind(mode) in OWN) is own


def test_each_kind_has_a_back_end_and_is_documented() -> None:
    assert set(BACKENDS) == set(KINDS) == {kind(mode) for mode, _, _ in MODES}
    page = Path(__file__).parents[3] / "docs" / "networking.md"
    _, _, table = page.read_text().partition("\n| `network_mode` | network namespace |")
    rows = re.findall(r"^\| `([^`]+)`", table.partition("\n\n")[0], re.MULTILINE)
    forms = [form for form, _ in KINDS.values()]
    assert sorted(rows) == sorted(forms)
    (option,) = (option for option in OPTIONS if option.name == "network_mode")
    with pytest.raises(SpecError) as caught:
        network_mode("network_mode", "other")
    for form in forms:
        assert f"V({form})" in " ".join(option.description)
        assert re.search(rf"\b{form}\b", caught.value.hint)


@pytest.mark.parametrize("mode", ["none", "host", "container:db", "ns:/run/netns/a"])
def test_modes_without_links_have_nothing_to_do(mode: str) -> None:
    desired = network.Desired({}, [], members=[network.Member("web", mode)])
    assert network.plan(SITE, desired, NOTHING) == network.Plan([], {}, [])
    backend = BACKENDS[mode.partition(":")[0]]
    assert backend.observe(SITE, None) is None and backend.unlink(SITE, ["web"], None) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a second back end with links is asked to plan or unlink."""
    asked: list[Any] = []

    def plan(site: Site, desired: network.Desired, state: str) -> network.Plan:
        asked.append(desired)
        return network.Plan([Operation(state, "shared")], {}, [Operation(state, "last")])

    def unlink(site: Site, names: list[str], state: str) -> list[Operation]:
        asked.append(names)
        return []

    none = BACKENDS["none"]
    row = Backend(none.netns_of, lambda site, interfaces: "seen", plan, unlink)
    monkeypatch.setattr(backends, "BACKENDS", {"none": row, "host": none})
    return asked


def test_a_teardown_and_new_addresses_are_planned_by_each_back_end(asked: list[Any]) -> None:
    state, desired = network.observe(SITE), network.Desired({}, [])
    (torn,) = network.teardown_operations(SITE, state)
    (refreshed,) = network.refresh_operations(SITE, desired, state, Resolution({}, {}))
    assert (torn.describe(), refreshed.describe()) == ("seen: last", "seen: shared")
    assert [(each.final_networks, each.addresses) for each in asked] == [
        ({}, None),
        (None, Resolution({}, {})),
    ]


def test_links_that_go_first_are_neither_kept_nor_unlinked(asked: list[Any]) -> None:
    state = network.observe(SITE).without("web")
    members = [network.Member("web", "none"), network.Member("db", "none")]
    network.plan(SITE, network.Desired({}, [], members=members), state)
    network.unlink(SITE, ["web", "db"], state)
    (desired, names) = asked
    assert [(each.name, each.fresh) for each in desired.members] == [("web", True), ("db", False)]
    assert names == ["db"]


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
