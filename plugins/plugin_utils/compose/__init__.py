# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compose files as the variables of an inventory; for the lookup plugin ``compose``."""

from __future__ import annotations

from .convert import convert
from .model import Request
from .nodes import ComposeError
from .project import of_directory

__all__ = ["ComposeError", "Request", "convert", "of_directory"]
