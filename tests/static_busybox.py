# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A program that needs no libraries, for images that tests make by hand.

`make test-packages` puts it beside the interpreter. The one of the host may be the other package.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = Path(sys.prefix, "share/busybox/busybox")
