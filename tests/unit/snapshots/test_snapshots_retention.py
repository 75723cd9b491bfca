# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Cases of (snapshots, limits, space) -> the snapshots that go, and why."""

from __future__ import annotations

import pytest
from sandlot.idmap import IdRange
from sandlot.snapshots.model import Snapshot
from sandlot.snapshots.retention import Limits, Room, due

DAY = 86400
NOW = 100.0 * DAY
ROOMY = Room(1000, 500, 1000, 500)
FULL = Room(1000, 99, 1000, 500)
NO_INODES = Room(1000, 500, 1000, 99)
ENDLESS = Room(1000, 500)


def snapshots(*entries: str) -> list[Snapshot]:
    """Each is SANDBOX/AGE in days, with "!" for one that was asked for; 10 bytes, 10 files."""
    made = []
    for entry in entries:
        sandbox, _, age = entry.rstrip("!").partition("/")
        snapshot = Snapshot(
            sandbox,
            age,
            NOW - int(age) * DAY,
            "rebuild",
            IdRange(1),
            automatic=not entry.endswith("!"),
            keep=2,
            max_age=50 * DAY,
            size=10,
            files=10,
        )
        made.append(snapshot)
    return made


KEPT = {"a": Limits(3), "b": Limits(3)}


@pytest.mark.parametrize(
    ("entries", "limits", "room", "going"),
    [
        (["a/1", "a/2", "a/3"], KEPT, ROOMY, []),
        (["a/1", "a/2", "a/3", "a/4", "a/5"], KEPT, ROOMY, ["a/4", "a/5"]),
        (["a/1", "a/2", "a/3"], {"a": Limits(3, coming=1)}, ROOMY, ["a/3"]),
        (["a/1", "a/2"], {"a": Limits(0)}, ROOMY, ["a/1", "a/2"]),
        (["a/1", "a/2!", "a/3!", "a/4!"], {"a": Limits(1)}, ROOMY, []),
        (["a/1", "a/9", "a/11"], {"a": Limits(3, 10 * DAY)}, ROOMY, ["a/11"]),
        (["a/11"], {"a": Limits(3, 10 * DAY)}, ROOMY, ["a/11"]),
        (["a/11!"], {"a": Limits(3, 10 * DAY)}, ROOMY, []),
        # Of a sandbox that is gone, the newest snapshot has the limits.
        (["c/1", "c/2", "c/3"], {}, ROOMY, ["c/3"]),
        (["c/1", "c/51"], {}, ROOMY, ["c/51"]),
        # Low space: the oldest of all first, never the newest of a sandbox, and no more than due.
        (["a/1", "a/2", "b/1", "b/3"], KEPT, FULL, ["b/3"]),
        (["a/1", "a/2", "b/1", "b/3"], KEPT, Room(1000, 85, 0, 0), ["b/3", "a/2"]),
        (["a/1", "b/9"], KEPT, FULL, []),
        (["a/1", "b/9!", "b/10!"], KEPT, FULL, []),
        (["a/1", "a/2"], KEPT, NO_INODES, ["a/2"]),
        (["a/1", "a/2"], KEPT, ENDLESS, []),
        # What the run sets aside is the newest.
        (["a/1", "a/2"], {"a": Limits(9, coming=1)}, Room(1000, 85, 0, 0), ["a/2", "a/1"]),
        # What goes anyway makes room first.
        (["a/1", "a/2", "a/3"], {"a": Limits(2)}, FULL, ["a/3"]),
    ],
)
def test_due(entries: list[str], limits: dict[str, Limits], room: Room, going: list[str]) -> None:
    chosen = due(snapshots(*entries), limits, NOW, room)
    assert sorted(entry.snapshot.name for entry in chosen) == sorted(going)


def test_each_tells_why() -> None:
    entries = snapshots("a/1", "a/2", "a/3", "a/60")
    chosen = due(entries, {"a": Limits(2, 50 * DAY, coming=1)}, NOW, Room(1000, 1, 0, 0))
    assert [(entry.snapshot.id, entry.why, entry.surplus) for entry in chosen] == [
        ("60", "it is too old (snapshot_max_age)", False),
        ("3", "snapshot_keep is 2", True),
        ("2", "snapshot_keep is 2", True),
        ("1", "space is low", False),
    ]
