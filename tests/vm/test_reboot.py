# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What is the same after a reboot, in which order it came back, and what systemd did to the filter.

The sandbox `shell` tries to reach the host from its first moment on, and tells when it could.
"""

from __future__ import annotations

import re

import pytest
from diary import Diary, has_all, is_limited
from guest import Guest, finish
from hosts import (
    DEPLOY,
    NAMES,
    RAISED,
    changed,
    each,
    fetch,
    has_values,
    identity,
    inside,
    inspected,
    until,
)


@pytest.fixture(scope="module")
def written(guest: Guest, raised: object) -> list[int]:
    """The last line that was acknowledged before the reboot."""
    return []


@pytest.fixture(scope="module")
def rebooted(guest: Guest, raised: object, written: list[int]) -> dict[str, object]:
    """Identities from before a reboot, which every sandbox has left a file for."""
    for name in NAMES:
        inside(guest, name, f"echo kept-{name} > /kept")
    before = identity(inspected(guest))
    writer = Diary(guest)
    guest.reboot()
    written.append(writer.end())
    return before


def test_the_same_sandboxes_are_back(guest: Guest, rebooted: dict[str, object]) -> None:
    assert guest.output("systemctl is-system-running") == "running"
    now = inspected(guest)
    assert identity(now) == rebooted
    assert {name: now[name]["state"] for name in NAMES} == dict.fromkeys(NAMES, "running")
    assert [inside(guest, name, "cat /kept") for name in NAMES] == [f"kept-{n}" for n in NAMES]
    assert fetch(guest) == "hello"


def test_volumes_and_quotas_are_back(
    guest: Guest, rebooted: dict[str, object], written: list[int]
) -> None:
    has_all(guest, *written)
    is_limited(guest)


def test_files_and_secrets_are_back(guest: Guest, rebooted: dict[str, object]) -> None:
    has_values(guest, "a-later-one")


def test_the_order_of_the_boot(guest: Guest, rebooted: dict[str, object]) -> None:
    """Filter before the first link, both after nftables.service, all before multi-user.target."""
    journal = guest.root("journalctl -b -o short-monotonic --no-pager")
    marks = (
        "Finished nftables.service",
        "Starting sandlot-up.service",
        r"kernel: sandlot0: port 1\(sb-",
        "Finished sandlot-up.service",
        "Reached target multi-user.target",
    )
    positions = [re.search(mark, journal) for mark in marks]
    assert all(positions), journal
    times = [found.start() for found in positions if found]
    assert times == sorted(times)


def test_no_packet_was_before_the_filter(guest: Guest, rebooted: dict[str, object]) -> None:
    log = guest.root("sandlot logs shell")
    assert "tried" in log
    assert "REACHED" not in log
    # Positive control: the probe reaches the host once the filter is gone, and who repairs it.
    guest.root("systemctl stop sandlot")
    guest.root("nft delete table inet sandlot; nft delete table bridge sandlot")
    until(lambda: "REACHED" in guest.root("sandlot logs --tail 5 shell"), "the host is reached")
    guest.root("systemctl start sandlot; sandlot up")
    assert "table inet sandlot" in guest.root("nft list tables")


def test_dependencies_come_first_and_go_last(guest: Guest, rebooted: dict[str, object]) -> None:
    pids = each(guest, "pid")
    order = " ".join(str(pids[name]) for name in ("worker", "shell", "web"))
    ticks = guest.root(
        f"for p in {order}; do sed 's/.*) //' /proc/$p/stat; done | cut -d ' ' -f 20"
    )
    begun = [int(line) for line in ticks.splitlines()]
    assert begun[0] < begun[1] < begun[2]
    assert "" < _ended(guest, "shell") < _ended(guest, "worker")


def _ended(guest: Guest, name: str) -> str:
    """When it was told to end, by the last line that it wrote about that."""
    return guest.root(f"sandlot logs -t {name} | grep ' ended$' | tail -n 1")


@pytest.mark.parametrize("action", ["restart", "reload"])
def test_the_filter_survives_that_of_the_host(
    guest: Guest, rebooted: dict[str, object], action: str
) -> None:
    """nftables.service begins with flushing everybody's tables."""
    guest.root(f"systemctl {action} nftables")
    until(lambda: "inet sandlot" in guest.root("nft list tables"), "the filter is back")
    until(lambda: guest.output("systemctl is-active sandlot-up || true") == "active", "it settled")
    # Bridges are down for as long as the rules are missing, which a slow guest may still notice.
    until(lambda: fetch(guest, check=False) == "hello", "the bridges are up")


def test_the_order_of_the_shutdown(guest: Guest, rebooted: dict[str, object]) -> None:
    """Sandboxes end while their network and filter are there, and none has to be killed."""
    journal = guest.root("journalctl -b -1 -o short-monotonic --no-pager")
    ended = journal.rindex("Stopped sandlot.service")
    assert ended < journal.rindex("Stopped systemd-networkd.service")
    assert ended < journal.rindex("Stopped nftables.service")
    assert "Waiting for process" not in guest.console()


def test_nothing_is_left_to_change(guest: Guest, rebooted: dict[str, object]) -> None:
    assert changed(finish(guest.play(DEPLOY, RAISED))) == 0
