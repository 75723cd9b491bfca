# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Confinement: the seccomp filter, kernel paths that are masked, and the list of relaxations."""

from .grants_audit import relaxed
from .kernel_paths import MASKED, READONLY

__all__ = ["MASKED", "READONLY", "relaxed"]
