# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The volumes of a host: declare, observe, plan; the mount that closes them for the host."""

from __future__ import annotations

from .closing import release
from .declare import argument_spec, normalise, normalise_one
from .facts import all_facts, facts, shown
from .model import Volume, VolumeSpec, image_volume
from .planning import Desired, Plan, Users, holds_data, plan
from .records import Volumes, load, load_all, names, now, place, save

__all__ = [
    "Plan",
    "Users",
    "Volume",
    "VolumeSpec",
    "Volumes",
    "Desired",
    "all_facts",
    "facts",
    "place",
    "argument_spec",
    "holds_data",
    "image_volume",
    "load",
    "load_all",
    "normalise",
    "normalise_one",
    "names",
    "now",
    "plan",
    "release",
    "save",
    "shown",
]
