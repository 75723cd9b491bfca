# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The table of sources; a new source is a module of its own and a row here."""

from __future__ import annotations

from typing import Mapping

from ..image_change import KEEP
from ..profiles import STRICT
from . import busybox, debootstrap, directory, host, host_overlay, oci, tarball, tmpfs
from .model import Image, ImageSpec, Source

SOURCES: Mapping[str, Source] = {
    "busybox": busybox.SOURCE,
    "tarball": tarball.SOURCE,
    "debootstrap": debootstrap.SOURCE,
    "oci": oci.SOURCE,
    "host": host.SOURCE,
    "host_overlay": host_overlay.SOURCE,
    "directory": directory.SOURCE,
    "tmpfs": tmpfs.SOURCE,
}


def of(spec: ImageSpec) -> Source:
    return SOURCES[spec.source]


def profile(image: Image, known: Mapping[str, Image]) -> str:
    """The security profile of sandboxes that name none; an image follows its ``base``."""
    base = known.get(str(image.parameters.get("base", "")))
    if base:
        return profile(base, known)
    return SOURCES[image.source].profile if image.source in SOURCES else STRICT


def on_image_change(image: Image) -> str:
    """The default of ``on_image_change``; a layer in memory above a base has nothing to keep."""
    return SOURCES[image.source].on_image_change if image.source in SOURCES else KEEP
