# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names of the throw-away sandboxes that set up images; users can't have them."""

from __future__ import annotations

import re
from typing import Iterable

from ..errors import SpecError
from ..images import workspace
from ..site import Site

# The start of the digest of the layer that is being made.
SETUP = re.compile(r"setup-([0-9a-f]{32})")


def is_setup_running(site: Site, name: str) -> bool:
    """Whether this is one whose maker is at work."""
    found = SETUP.fullmatch(name)
    return found is not None and workspace.is_busy(site, found[1])


def check_free(names: Iterable[str]) -> None:
    for name in names:
        if SETUP.fullmatch(name):
            hint = "choose another name"
            raise SpecError("name", name, "is kept for setting up images", hint=hint)
