# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of the snapshots that runs make of layers which they drop."""

from __future__ import annotations

from functools import partial

from ...plan import Change
from .. import quantities
from ..option import Option, Reach

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
)
