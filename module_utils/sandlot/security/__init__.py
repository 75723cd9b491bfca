# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox may ask of the kernel: capabilities, the seccomp filter, kernel paths."""

from .grants_audit import relaxed
from .kernel_paths import MASKED, READONLY

__all__ = ["MASKED", "READONLY", "relaxed"]
