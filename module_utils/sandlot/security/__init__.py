# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox may ask of the kernel: capabilities, the seccomp filter, kernel paths."""

from .kernel_paths import MASKED, READONLY
from .ledger import relaxed

__all__ = ["MASKED", "READONLY", "relaxed"]
