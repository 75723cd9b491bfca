# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The desired sandbox: the option table, validation, the normalised spec, comparison."""

from __future__ import annotations

from .argspec import argument_spec, arguments, documentation, options_documentation
from .differences import Difference, differences, render, render_differences
from .healthcheck import Healthcheck
from .model import Spec
from .normalise import normalise, normalise_all
from .options import OPTIONS
from .values import Attachment, Mount, PublishedPort, TimeOffset, Tmpfs, Ulimit

__all__ = [
    "OPTIONS",
    "Attachment",
    "Difference",
    "Healthcheck",
    "Mount",
    "PublishedPort",
    "Spec",
    "TimeOffset",
    "Tmpfs",
    "Ulimit",
    "argument_spec",
    "arguments",
    "differences",
    "documentation",
    "normalise",
    "normalise_all",
    "options_documentation",
    "render",
    "render_differences",
]
