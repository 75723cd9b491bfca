# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The place of the host's Python in sandboxes, and the states of files that it comes from."""

from __future__ import annotations

import os
from typing import Optional, Tuple

# The path of the linker below it fits into the place of the shortest path that programs have for
# theirs on the machines that sandlot knows.
PLACE = "/dev/.sandlot"
LINKER, LIBRARIES, PROGRAM = "ld.so", "lib", "bin/python3"
INTERPRETER = f"{PLACE}/{PROGRAM}"

# Time of the last change in nanoseconds, and size.
Stamp = Tuple[int, int]


def stamp(path: str) -> Optional[Stamp]:
    """The state of a file, or of a directory as far as its names go; None without one."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
