# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A teardown leaves the host as it was found, also one that the power was cut in the middle of."""

from __future__ import annotations

import json

from cuts import STATE, readable, unplugged
from diary import Diary
from guest import Guest, finish
from hosts import CGROUP, TEARDOWN, VOLUMES, changed, compare


def test_during_a_teardown(guest: Guest, raised: object) -> None:
    """The moment is the end of a sandbox that was frozen. Volumes stay."""
    guest.root(f"echo 1 > {CGROUP}/web/cgroup.freeze")
    writer = Diary(guest)
    unplugged(guest, TEARDOWN, {}, f"-{STATE}/sandboxes/web/record.json")
    last = writer.end()
    readable(guest)
    numbers = guest.root(f"cat {STATE}/volumes/records/data/lines").split()
    assert list(map(str, range(1, last + 1))) == numbers[:last]


def test_teardown(guest: Guest, raised: object) -> None:
    volumes = json.dumps({"sandbox_remove_volumes": VOLUMES})
    assert changed(finish(guest.play(TEARDOWN, {}, "-e", volumes))) > 0
    compare(guest)
    assert changed(finish(guest.play(TEARDOWN, {}))) == 0
