# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A teardown leaves the host as it was found, also one that the power was cut in the middle of."""

from __future__ import annotations

from cuts import STATE, readable, unplugged
from guest import Guest, finish
from hosts import CGROUP, TEARDOWN, changed, compare


def test_during_a_teardown(guest: Guest, deployed: str) -> None:
    """The moment is the end of a sandbox that was frozen."""
    guest.root(f"echo 1 > {CGROUP}/web/cgroup.freeze")
    unplugged(guest, TEARDOWN, {}, f"-{STATE}/sandboxes/web/record.json")
    readable(guest)


def test_teardown(guest: Guest, deployed: str) -> None:
    assert changed(finish(guest.play(TEARDOWN, {}))) > 0
    compare(guest)
    assert changed(finish(guest.play(TEARDOWN, {}))) == 0
