# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tells whether a host is as the module sandbox_host would leave it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from ..site import Site
from ..spec import raw
from . import facts, install
from .packages import CHOICES, REPORT

OPTIONS: Dict[str, Dict[str, Any]] = {
    "image_sources": {"type": "list", "elements": "str", "default": []},
    "packages": {"type": "str", "choices": [*CHOICES], "default": REPORT},
}


def missing_packages(site: Site, option: str, given: Mapping[str, Any]) -> Optional[List[str]]:
    """Packages that a ready host lacks, to be reported; None where sandbox_host has to run.

    ``given`` has options of sandbox_host, in an ``option`` of another module.
    """
    raw.check(OPTIONS, given, f"{option}.")
    sources = facts.known_sources(f"{option}.image_sources", given.get("image_sources") or [])
    if install.present(site, check=True).changed:
        return None
    missing = facts.missing_packages(sources, facts.python())
    return None if missing and given.get("packages", REPORT) != REPORT else missing
