# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The place of the host's Python in sandboxes, and the states of files that it comes from."""

from __future__ import annotations

import os
from typing import Optional, Tuple

PLACE = "/dev/.python"
PROGRAM = "bin/python3"
INTERPRETER = f"{PLACE}/{PROGRAM}"
# Libraries are at the top. A program names that directory by the end of the path of its linker, and
# has no room for a longer one than /lib/ld-musl-x86_64.so.1, whatever the C library is.
LINKER = f"{PLACE}{PLACE}"

# Time of the last change in nanoseconds, and size.
Stamp = Tuple[int, int]


def stamp(path: str) -> Optional[Stamp]:
    """The state of a file, or of a directory as far as its names go; None without one."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
