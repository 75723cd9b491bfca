# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Builds the images of a plan and reports each; finds archives that the controller has to copy."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Dict, List, Mapping, Sequence

from .. import lock
from ..errors import SandlotError
from ..site import Site
from . import build, progress, records
from .build import Making
from .model import Image, ImageSpec, Json

_DONE = {"make": "made", "make again": "made again", "replace": "replaced"}


def make_trees(site: Site, makings: Sequence[Making], run: progress.Run) -> Dict[str, float]:
    """Build trees; the seconds for each image. Images built before a failure are recorded."""
    seconds: Dict[str, float] = {}
    try:
        for making in makings:
            begun = time.monotonic()
            making.make_trees()
            run.done(making.name)
            seconds[making.name] = time.monotonic() - begun
    except SandlotError:
        with lock.exclusive(site):
            for making in makings:
                if making.name in seconds:
                    making.record()
        raise
    return seconds


def done(site: Site, makings: Sequence[Making], seconds: Mapping[str, float]) -> List[Json]:
    """A report on each image that was built."""
    known = records.observe(site)
    return [
        {
            "name": making.name,
            "verb": _DONE[making.verb],
            "digest": known[making.name].digest,
            "size": known[making.name].size,
            "seconds": round(seconds[making.name], 1),
        }
        for making in makings
        if making.verb in _DONE
    ]


def due(makings: Sequence[Making]) -> List[str]:
    """The names of images that are to be built."""
    return [making.name for making in makings if making.verb in _DONE]


def with_uploads(specs: Sequence[ImageSpec], uploads: Mapping[str, str] | None) -> List[ImageSpec]:
    """Add to each spec the path that the controller copied its archive to."""
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
    """Images that need an archive from the controller, which has not copied it yet."""
    return [
        spec.name
        for spec in specs
        if spec.get("src")
        and not spec.get("uploaded")
        and not build.is_made(site, wanted[spec.name].base)
    ]
