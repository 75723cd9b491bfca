# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Brings a host to its desired sandboxes, images, networks and volumes: observe, plan, apply."""

from __future__ import annotations

from ..sandbox.crash import WATCH
from .api import converge, request, setup_runner
from .holdings import layer_sizes, volumes_info
from .kinds import argument_spec, normalised
from .report import Result, info
from .resolve import Request
from .returned import closing, return_values
from .summary import changes
from .summary import kept as kept_layers
from .upkeep import down, lifecycle, refresh, remove, remove_kept, repair, start_held, up

__all__ = [
    "WATCH",
    "Request",
    "Result",
    "argument_spec",
    "changes",
    "closing",
    "converge",
    "down",
    "info",
    "kept_layers",
    "layer_sizes",
    "lifecycle",
    "normalised",
    "refresh",
    "remove",
    "remove_kept",
    "repair",
    "request",
    "return_values",
    "setup_runner",
    "start_held",
    "up",
    "volumes_info",
]
