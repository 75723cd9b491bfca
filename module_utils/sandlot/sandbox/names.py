# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names of the sandboxes of a host, told by what they left on it."""

from __future__ import annotations

import os
import re

from ..errors import SandlotError
from ..kernel import files
from ..site import Site
from . import runtime

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")


def recorded(site: Site) -> list[str]:
    """Sandboxes that have a directory, with or without a usable record in it."""
    return files.directories(site.sandboxes)


def known(site: Site) -> set[str]:
    """Every sandbox that left a trace: a directory under state or run, or a cgroup."""
    # Commands that check a name start faster without it.
    from .. import cgroups

    return {*recorded(site), *runtime.names(site), *cgroups.names(site)}


def check(site: Site, name: str) -> str:
    """The name, of a sandbox of this host; SandlotError otherwise."""
    if _NAME.fullmatch(name) and os.path.isdir(site.sandbox(name).state):
        return name
    names = ", ".join(recorded(site)) or "there is none"
    raise SandlotError(f"no sandbox is named {name!r}", hint=f"known: {names}")
