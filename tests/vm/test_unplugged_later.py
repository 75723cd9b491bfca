# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The power is cut while sandboxes are updated, and while they are removed."""

from __future__ import annotations

from cuts import STATE, readable, unplugged
from diary import NAME, Diary, has_all, is_limited
from guest import Guest, finish
from hosts import (
    CGROUP,
    DEPLOY,
    GROWN,
    NAMES,
    TEARDOWN,
    changed,
    demo,
    fetch,
    inspected,
    with_diary,
)

SUITES_WANTED = slice(-1, None)
NEW_COMMAND = ["sh", "-c", "mkdir -p /srv; echo new > /srv/index.html; exec httpd -f -p 80 -h /srv"]


def test_during_an_update(guest: Guest, raised: object) -> None:
    """Each is the old one or the new one."""
    updated = with_diary(demo({"web": {"command": NEW_COMMAND}, "shell": GROWN}))
    updated["sandbox_instances"].append({"name": "extra", "command": ["sleep", "1000000"]})
    old = inspected(guest)
    writer = Diary(guest)
    unplugged(guest, DEPLOY, updated, f"+{STATE}/sandboxes/extra/record.json")
    has_all(guest, writer.end())
    is_limited(guest)
    now = readable(guest)
    assert {*NAMES, NAME} <= now.keys() <= {*NAMES, NAME, "extra"}
    assert now["web"]["spec"]["command"] in (old["web"]["spec"]["command"], NEW_COMMAND)
    for key in ("addresses", "ids"):
        assert {name: now[name][key] for name in NAMES} == {name: old[name][key] for name in NAMES}
    finish(guest.play(DEPLOY, updated))
    assert fetch(guest) == "new"
    assert changed(finish(guest.play(DEPLOY, updated))) == 0


def test_during_a_teardown(guest: Guest, raised: object) -> None:
    """The moment is the end of a sandbox that was frozen. Volumes stay."""
    guest.root(f"echo 1 > {CGROUP}/web/cgroup.freeze")
    writer = Diary(guest)
    unplugged(guest, TEARDOWN, {}, f"-{STATE}/sandboxes/web/record.json")
    last = writer.end()
    readable(guest)
    numbers = guest.root(f"cat {STATE}/volumes/records/data/lines").split()
    assert list(map(str, range(1, last + 1))) == numbers[:last]
