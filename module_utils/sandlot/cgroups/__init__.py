# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Observes, makes, limits, measures and removes the cgroups of sandboxes."""

from .apply import fresh, operations
from .layout import Layout, detect, names, shown, shown_inside
from .parents import teardown_operations
from .removal import remove_operations
from .state import CgroupState, check, directories, observe
from .usage import Usage, usage

__all__ = [
    "CgroupState",
    "Layout",
    "Usage",
    "check",
    "detect",
    "directories",
    "fresh",
    "names",
    "observe",
    "operations",
    "remove_operations",
    "shown",
    "shown_inside",
    "teardown_operations",
    "usage",
]
