# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of restarts, stopping, logs and labels."""

from __future__ import annotations

from functools import partial

from ...plan import Change
from .. import names, quantities, text
from ..option import Option

RESTART_POLICIES = ("no", "on-failure", "always", "unless-stopped")
DAY = 86400


def _signal_name(number: int | None) -> str | int | None:
    return None if number is None else quantities.signal_name(number)


OPTIONS = (
    Option(
        "restart_policy",
        "str",
        partial(text.choice, choices=RESTART_POLICIES),
        ["When the workload is started again after it ended."],
        change=Change.LIVE,
        default="unless-stopped",
        choices=RESTART_POLICIES,
    ),
    Option(
        "restart_retries",
        "int",
        partial(quantities.integer, minimum=0, maximum=2**31 - 1),
        ["How often O(restart_policy=on-failure) tries again; V(0) is without end."],
        change=Change.LIVE,
        default=0,
    ),
    Option(
        "stop_signal",
        "str",
        quantities.signal_number,
        [
            "Signal that asks the workload to end, by name or number.",
            "Without it, that of the image, else V(SIGTERM).",
        ],
        change=Change.LIVE,
        dump=_signal_name,
    ),
    Option(
        "stop_timeout",
        "int",
        partial(quantities.integer, minimum=0, maximum=DAY),
        ["Seconds between O(stop_signal) and C(SIGKILL), up to a day."],
        change=Change.LIVE,
        default=10,
    ),
    Option(
        "log_max_size",
        "str",
        partial(quantities.size, minimum=quantities.LOG_MINIMUM),
        ["How much of the workload's output is kept, at least V(64k)."],
        change=Change.RESTART,
        default="10m",
    ),
    Option(
        "labels",
        "dict",
        partial(names.pairs, key=names.label_name, item=text.text),
        ["Names and values of your own, kept with the sandbox beside those of its image."],
        change=Change.LIVE,
        default={},
        dump=dict,
    ),
)
