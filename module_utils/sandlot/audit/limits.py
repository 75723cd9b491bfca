# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Limits in force against those of the spec, with the rules of devices."""

from __future__ import annotations

from .. import cgroups
from ..cgroups.state import offered
from ..sandbox import devices
from .subject import Look, Subject

_SHOWN = ("memory", "cpus", "cpuset_cpus", "pids_limit")


def limits(subject: Subject) -> Look:
    name, spec, state = subject.record.name, subject.record.spec, subject.cgroups
    values = state.sandboxes[name].values
    knobs = {knob.label: knob for dummy, knob in offered(state.layout)}
    texts = {label: values.get(knobs[label].file) for label in _SHOWN if label in knobs}
    look = Look(
        ", ".join(f"{label} {knobs[label].show(text)}" for label, text in texts.items() if text)
    )
    for operation in cgroups.operations(subject.site, name, spec, state):
        look.expect("limits", "of the record", operation.summary, operation.describe())
    if subject.launch.get("devices") and not devices.are_restricted(subject.launch):
        look.expect("devices", "its own alone", "others are allowed")
    return look
