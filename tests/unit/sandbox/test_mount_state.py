# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The way from the mounts that a running sandbox has to those that it should have."""

from __future__ import annotations

from typing import Any

import pytest
from sandlot.sandbox import mount_state
from sandlot.sandbox.mount_state import SandboxMount


def volume(target: str, **options: Any) -> dict[str, Any]:
    return {"type": "volume", "target": target, "source": "data", "path": "/v/data", **options}


A, A_RO, A_B, A_B_C, X = (
    volume("/a"),
    volume("/a", read_only=True),
    volume("/a/b"),
    volume("/a/b/c"),
    volume("/x"),
)
TMP = {"type": "tmpfs", "target": "/t", "options": "size=1m"}


@pytest.mark.parametrize(
    ("present", "desired", "remove", "add", "lost"),
    [
        ([], [], [], [], []),
        ([], [A_B, A], [], ["/a", "/a/b"], []),
        ([(A, 1), (A_B, 2)], [A, A_B], [], [], []),
        ([(A, 1), (A_B, 2)], [A_B], [2, 1], ["/a/b"], []),
        ([(A, 1), (A_B, 2)], [], [2, 1], [], []),
        # A mount is replaced, with those in it, and others are left alone.
        ([(A, 1), (A_B, 2), (A_B_C, 3), (X, 4)], [A_RO, A_B, A_B_C, X], [3, 2, 1], 3, []),
        # A new mount would hide one that is there.
        ([(A_B, 2), (X, 4)], [A, A_B, X], [2], ["/a", "/a/b"], []),
        # Somebody took one away.
        ([(A, 0), (X, 4)], [A, X], [], ["/a"], ["/a"]),
        ([(A, 0), (X, 4)], [X], [], [], []),
        # A killed run left the old one above the new one.
        ([(A, 1), (A_RO, 2)], [A_RO], [1], [], []),
        ([(A, 1), (A, 2)], [A], [2], [], []),
        ([(TMP, 1)], [{**TMP, "options": "size=2m"}], [1], ["/t"], []),
    ],
)
def test_plan(present: Any, desired: Any, remove: Any, add: Any, lost: Any) -> None:
    present_now = [SandboxMount(entry, number) for entry, number in present]
    plan = mount_state.plan(present_now, desired)
    assert [each.id for each in plan.remove] == remove
    targets = [entry["target"] for entry in plan.add]
    assert len(targets) == add if isinstance(add, int) else targets == add
    assert sorted(plan.lost) == lost
    assert bool(plan) == bool(remove or add)
    kept = {each.target for each in plan.keep}
    assert kept | set(targets) == {entry["target"] for entry in desired}
    assert not kept & set(targets)


LAUNCH = {
    "files": {"/etc/hosts": "/run/a/etc/hosts"},
    "tmpfs": {"/run/lock": "size=1m"},
    "read_only": False,
}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (A, ""),
        (volume("/etc/app"), ""),
        (volume("/run/lock/x"), ""),
        (TMP, ""),
        (volume("/etc"), "/etc/hosts is a file"),
        (volume("/etc/hosts"), "/etc/hosts is a file"),
        (volume("/run"), "/run/lock is a file system in memory"),
        (volume("/tmp"), "/tmp is a file system in memory"),
        (volume("/tmp/x"), ""),
        ({**TMP, "options": "size=1m,tmpcopyup"}, "files of the image"),
    ],
)
def test_what_only_a_restart_can_change(entry: dict[str, Any], says: str) -> None:
    reason = mount_state.obstacle(mount_state.plan([], [entry]), LAUNCH)
    assert says in reason and bool(reason) == bool(says)
    removal = mount_state.obstacle(mount_state.plan([SandboxMount(entry, 1)], []), LAUNCH)
    assert bool(removal) == bool(says and "image" not in says)


def test_a_read_only_root_has_more_in_memory() -> None:
    plan, launch = mount_state.plan([], [volume("/run")]), {**LAUNCH, "tmpfs": {}}
    assert not mount_state.obstacle(plan, launch)
    assert "/run is a file" in mount_state.obstacle(plan, {**launch, "read_only": True})


def test_identity_is_id_file_system_and_root() -> None:
    noted = SandboxMount(A, 7, "8:1", "/v/data").to_json()
    row = mount_state.mountinfo.Row("7 1 8:1 /v/data /a rw - ext4 /dev/vda rw")
    assert mount_state._known(noted, {7: row}) == SandboxMount(A, 7, "8:1", "/v/data")
    other = mount_state.mountinfo.Row("7 1 0:9 / /elsewhere rw - tmpfs none rw")
    assert (
        mount_state._known(noted, {7: other}) == mount_state._known(noted, {}) == SandboxMount(A, 0)
    )
    # At a start and before an attachment, only the id is known.
    assert mount_state._known(SandboxMount(A, 7).to_json(), {7: row}).device == "8:1"
