# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Carries out what was planned, and tells what each image took; archives from the controller."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Sequence

from ..plan import Operation
from ..site import Site
from . import build, progress, records
from .model import Image, ImageSpec
from .store import Making

_DONE = {"make": "made", "make again": "made again", "replace": "replaced"}


def apply(site: Site, operations: Sequence[Operation]) -> List[Dict[str, Any]]:
    """One line for each image that was made."""
    found = []
    making = [each.image for each in operations if isinstance(each, Making)]
    with progress.Run(site, making) as run:
        for operation in operations:
            begun = time.monotonic()
            operation.apply()
            if isinstance(operation, Making):
                run.done(operation.image)
                found += _lines(site, operation, time.monotonic() - begun)
    return found


def _lines(site: Site, operation: Making, seconds: float) -> List[Dict[str, Any]]:
    if operation.verb not in _DONE:
        return []
    image = records.observe(site)[operation.image]
    line = {"name": image.name, "verb": _DONE[operation.verb], "digest": image.digest}
    return [{**line, "size": image.size, "seconds": round(seconds, 1)}]


def with_uploads(specs: Sequence[ImageSpec], uploads: Mapping[str, str] | None) -> List[ImageSpec]:
    """Specs that know where their archives have been copied to."""
    known = uploads or {}
    return [
        replace(spec, options={**spec.options, "uploaded": known[spec.name]})
        if spec.name in known
        else spec
        for spec in specs
    ]


def uploads_needed(
    site: Site, specs: Sequence[ImageSpec], wanted: Mapping[str, Image]
) -> List[str]:
    """Images whose archive is on the controller, and not yet here though it is to be unpacked."""
    return [
        spec.name
        for spec in specs
        if spec.get("src")
        and not spec.get("uploaded")
        and not build.is_made(site, wanted[spec.name].base)
    ]
