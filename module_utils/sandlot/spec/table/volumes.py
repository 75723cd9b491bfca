# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of a volume."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import mounts, names, quantities, text
from ..option import Option
from ..text import refusal

STATES = ("present", "absent")
SIZE_MINIMUM = 16 << 20  # less has no room for a journal


def _is_about_a_removal(volume: Any) -> None:
    if volume.force and volume.state != "absent":
        hint = "leave it out, or set state: absent"
        raise refusal("force", True, f"has no meaning for volume {volume.name}", hint=hint)


OPTIONS = (
    Option(
        "name",
        "str",
        mounts.volume_name,
        [
            "Name of the volume, which C(volumes) of sandboxes refer to.",
            "Up to 128 ASCII letters, digits, C(_), C(.) and C(-), a letter or digit first.",
        ],
        required=True,
    ),
    Option(
        "state",
        "str",
        partial(text.choice, choices=STATES),
        [
            "Whether the volume is on the host.",
            "A volume that a sandbox uses can't be removed; one that holds data only with "
            "O(force).",
        ],
        default=STATES[0],
        choices=STATES,
    ),
    Option(
        "size",
        "str",
        partial(quantities.size, minimum=SIZE_MINIMUM),
        [
            "The most that the volume may hold, such as V(10g); no limit unless given.",
            "The kernel enforces it: by a project quota where the file system has one, else by a "
            "file system of that size in a sparse file. Where neither works it is refused.",
        ],
        numeric=True,
    ),
    Option(
        "labels",
        "dict",
        partial(names.pairs, key=names.label_name, item=text.text),
        ["Labels, for the use of others."],
        default={},
        dump=dict,
    ),
    Option(
        "force",
        "bool",
        text.flag,
        ["With O(state=absent), whether to remove the volume with the data that it holds."],
        default=False,
        check=_is_about_a_removal,
    ),
)
