# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names given on the command line: checked before any path is made of them."""

from __future__ import annotations

import os
import re
from typing import List

from ..errors import SandlotError
from ..kernel.files import directories
from ..site import Site

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")


def known(site: Site) -> List[str]:
    """Sandboxes that have a directory, with or without a usable record in it."""
    return directories(site.sandboxes)


def check(site: Site, name: str) -> str:
    """The name of a sandbox of this host; SandlotError otherwise."""
    if _NAME.fullmatch(name) and os.path.isdir(site.sandbox(name).state):
        return name
    found = ", ".join(known(site)) or "there is none"
    raise SandlotError(f"no sandbox is named {name!r}", hint=f"known: {found}")
