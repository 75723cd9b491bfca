# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The mounts that a sandbox gets: those of its spec, and its volumes for VOLUMEs of the image."""

from __future__ import annotations

from typing import Dict, List

from .record import Record


def volumes(record: Record) -> List[str]:
    """The volumes that the sandbox uses."""
    return sorted({*image_volumes(record).values()})


def image_volumes(record: Record) -> Dict[str, str]:
    """The volumes for VOLUMEs of the image, by target, where the user mounts nothing."""
    return dict(record.volumes)
