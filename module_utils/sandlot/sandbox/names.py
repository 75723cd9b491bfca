# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The names of a host's sandboxes, from their directories and cgroups."""

from __future__ import annotations

import os
import re

from ..errors import SandlotError
from ..kernel import files
from ..site import Site
from . import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..cgroups import Layout

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")


def recorded(site: Site) -> list[str]:
    """Sandboxes with a state directory, whether or not their record is usable."""
    return files.directories(site.sandboxes)


def known(site: Site, layout: Layout | None = None) -> set[str]:
    """Every sandbox with a directory under state or run, with secrets in memory or a cgroup."""
    # Imported here, so that commands that only check a name start faster.
    from .. import cgroups

    in_memory = files.directories(site.secrets)
    return {*recorded(site), *runtime.names(site), *in_memory, *cgroups.names(site, layout)}


def check(site: Site, name: str) -> str:
    """Return the name of a sandbox of this host; SandlotError for any other name."""
    if _NAME.fullmatch(name) and os.path.isdir(site.sandbox(name).state):
        return name
    names = ", ".join(recorded(site)) or "there is none"
    raise SandlotError(f"no sandbox is named {name!r}", hint=f"known: {names}")
