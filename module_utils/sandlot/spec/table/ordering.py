# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of the order in which sandboxes start and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...plan import Change
from .. import dependencies
from ..option import Option, Reach
from ..text import refusal

if TYPE_CHECKING:
    from ..model import Spec


def _names_others(spec: Spec) -> None:
    if any(item.name == spec.name for item in spec.depends_on):
        hint = "leave it out; where it is a default of all, give this one depends_on: []"
        raise refusal("depends_on", spec.name, "is the sandbox itself", hint=hint)


OPTIONS = (
    Option(
        "depends_on",
        "list",
        dependencies.depends_on,
        [
            "Sandboxes of this host that are started before this one and stopped after it, also "
            "when the host boots and shuts down.",
            "Each is a name, or a mapping with C(name) and C(condition). With V(started), the "
            "default, it has to run. With V(healthy), its healthcheck has to succeed first.",
            "While one of them does not, this one is not started and fails with the reason. They "
            "can't be removed before this one.",
            "A restart of one of them does not restart this one.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        default=[],
        dump=dependencies.dump,
        elements="raw",
        check=_names_others,
    ),
)
