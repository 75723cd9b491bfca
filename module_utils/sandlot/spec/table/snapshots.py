# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of the snapshots that runs make of layers which they drop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...plan import Change
from .. import quantities
from ..option import Option, Reach
from ..text import lines, refusal

if TYPE_CHECKING:
    from ..model import Spec

OCCASIONS = ("rebuild",)


def _occasions(option: str, value: Any) -> tuple[str, ...]:
    chosen = lines(option, value)
    for item in chosen:
        if item not in OCCASIONS:
            raise refusal(option, item, "is no such change", hint=f"use {', '.join(OCCASIONS)}")
    return tuple(sorted(set(chosen)))


def _kept(spec: Spec) -> None:
    if spec.snapshot_before and not spec.snapshot_keep:
        hint = "set snapshot_keep to 1 or more"
        raise refusal("snapshot_before", spec.snapshot_before, "keeps nothing", hint=hint)


OPTIONS = (
    Option(
        "snapshot_keep",
        "int",
        partial(quantities.integer, minimum=0, maximum=1000),
        [
            "How many layers that runs set aside (at a rebuild, another image, a purge) are kept "
            "as snapshots; older ones are removed.",
            "With V(0), none is kept, and what such a run drops is lost.",
            "Snapshots that were asked for are not counted. When the file system has less than "
            "10 % of its space left, runs remove older ones, never the newest of a sandbox.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        default=3,
        later=True,
    ),
    Option(
        "snapshot_max_age",
        "str",
        quantities.age,
        [
            "Age at which a layer that was set aside is removed, such as V(30d) or V(12h).",
            "Without it, age is no reason.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        dump=quantities.show_age,
        later=True,
    ),
    Option(
        "snapshot_before",
        "list",
        _occasions,
        [
            "Changes before which the volumes of the sandbox are copied: V(rebuild).",
            "The copies and the layer that the change drops are one snapshot. They are made while "
            "the sandbox is stopped for the change, which takes longer on file systems without "
            "reflinks.",
            "When the change fails and is rolled back, the volumes stay as they are then, and the "
            "snapshot is kept.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        default=[],
        elements="str",
        choices=OCCASIONS,
        dump=list,
        check=_kept,
        later=True,
    ),
)
