# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Capability names, their numbers and masks."""

from __future__ import annotations

from typing import Iterable

from ..errors import SpecError
from ..spec.confinement import CAPABILITIES

NAMES = CAPABILITIES
NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}


def canonical(name: str) -> str:
    """The name as in ``NAMES``: upper case, without the CAP_ prefix; SpecError when unknown."""
    upper = name.upper()
    short = upper[4:] if upper.startswith("CAP_") else upper
    if short not in NUMBERS:
        raise SpecError(
            "capabilities",
            name,
            "is not a Linux capability",
            hint="use a name from capabilities(7), such as NET_RAW",
        )
    return short


def mask(names: Iterable[str]) -> int:
    """The names as a capability bit mask."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[canonical(name)]
    return bits
