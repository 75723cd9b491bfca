# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ids in the attributes of copied files."""

from __future__ import annotations

import struct

from sandlot.kernel.attributes import moved
from sandlot.kernel.copying import Shift, same

INSIDE = Shift(200000, 0, 65536)
OUTSIDE = Shift(0, 300000, 65536)
BLANK = bytes(16)


def capability(revision: int, *root: int) -> bytes:
    return (
        struct.pack("<I", revision << 24 | 1)
        + BLANK
        + b"".join(struct.pack("<I", number) for number in root)
    )


def test_shift_moves_a_range() -> None:
    assert [INSIDE(owner) for owner in (200000, 200001, 265535)] == [0, 1, 65535]


def test_shift_makes_nobody_of_ids_beyond() -> None:
    assert [INSIDE(owner) for owner in (0, 199999, 265536)] == [65534] * 3
    assert OUTSIDE(70000) == 365534


def test_capability_gets_the_new_root() -> None:
    assert moved("security.capability", capability(3, 200000), INSIDE) == capability(2)
    assert moved("security.capability", capability(2), OUTSIDE) == capability(3, 300000)
    assert moved("security.capability", capability(3, 200000), same) == capability(3, 200000)


def test_unknown_capability_stays() -> None:
    for value in (capability(9, 1), capability(3), b"\1\0\0\0"):
        assert moved("security.capability", value, INSIDE) == value


def test_acl_gets_new_users_and_groups_only() -> None:
    def acl(user: int, group: int) -> bytes:
        none = 0xFFFFFFFF
        entries = [(1, 6, none), (2, 4, user), (4, 4, none), (8, 4, group), (0x10, 4, none)]
        body = b"".join(struct.pack("<HHI", *entry) for entry in [*entries, (0x20, 0, none)])
        return struct.pack("<I", 2) + body

    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        assert moved(name, acl(200033, 200050), INSIDE) == acl(33, 50)


def test_other_attributes_stay() -> None:
    assert moved("trusted.overlay.opaque", b"y", INSIDE) == b"y"
