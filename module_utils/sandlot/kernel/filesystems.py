# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Whether the kernel offers a file system."""

from __future__ import annotations

import os

LISTED = "/proc/filesystems"


def offered(kind: str) -> bool:
    """Whether a file system is built in, loaded, or a module that mount(2) loads by itself."""
    with open(LISTED, encoding="ascii") as handle:
        if kind in {line.split()[-1] for line in handle}:
            return True
    modules = f"/lib/modules/{os.uname().release}/modules.dep"
    try:
        with open(modules, encoding="utf-8") as handle:
            return any(f"/{kind}.ko" in line.partition(":")[0] for line in handle)
    except FileNotFoundError:
        return False
