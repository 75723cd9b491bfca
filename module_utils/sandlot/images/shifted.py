# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies of an image with owners moved into a sandbox's range, for hosts whose kernel or file
system can't map ids on a mount."""

from __future__ import annotations

import os
from functools import partial

from ..errors import SandlotError
from ..idmap import IdRange
from ..kernel.copying import copy_directory
from ..plan import Operation
from ..site import Site
from .model import Image
from .workspace import install, private_directory, temporary, tree


def shifted(site: Site, image: Image, ids: IdRange) -> str:
    """The path of the copy for this range, whether or not it exists."""
    return f"{tree(site, image.digest)}/shifted-{ids.start}"


def shift_operations(site: Site, image: Image, ids: IdRange) -> list[Operation]:
    destination = shifted(site, image, ids)
    if os.path.isdir(destination):
        return []

    def shift() -> None:
        try:
            private_directory(site.images)
            with temporary(site, f"{image.digest}-{ids.start}") as directory:
                _copy_tree(image.root, f"{directory}/root", ids)
                if not os.path.isdir(destination):
                    install(site, f"{directory}/root", destination)
        except OSError as error:
            raise SandlotError(
                f"image {image.name!r} can't be copied for the ids {ids.start}: {error}",
                hint=f"see to space and rights in {site.images}, then run again",
            ) from error

    return [Operation(f"image {image.name}", f"copy with owners moved to {ids.start}", shift)]


def _copy_tree(source: str, destination: str, ids: IdRange) -> None:
    os.mkdir(destination)
    copied = copy_directory(source, destination, partial(_moved, ids))
    if copied.skipped:
        problem = f"{copied.skipped} of its entries are sockets or devices"
        raise SandlotError(f"image tree {source} can't be copied: {problem}", hint="make it again")


def _moved(ids: IdRange, value: int) -> int:
    if value >= ids.size:
        problem = f"a file of the image belongs to {value}, beyond the {ids.size} ids"
        raise SandlotError(problem, hint="remove the image and make it again")
    return ids.start + value
