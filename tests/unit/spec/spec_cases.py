# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The cases of tests/unit/spec/cases, one file per option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sandlot.configuration.sealing import sealed
from sandlot.mask import Mask
from sandlot.site import Site
from sandlot.spec import Spec, normalise


class _FixedMask(Mask):
    """A mask whose digests are the same in every run of the tests."""

    def __init__(self) -> None:
        super().__init__(Site("/nowhere"))
        self._key = bytes(32)


MASK = _FixedMask()
CASES = Path(__file__).parent / "cases"
BASE: dict[str, Any] = {"name": "web", "image": "busybox"}


def load(option: str) -> dict[str, Any]:
    return dict(json.loads((CASES / f"{option}.json").read_text()))


def raw(option: str, value: Any) -> dict[str, Any]:
    """A whole sandbox with ``value`` for ``option``, and whatever that option needs beside it."""
    return {**BASE, **load(option).get("context", {}), option: value}


def spec(given: dict[str, Any]) -> Spec:
    """The spec of a whole sandbox, as a run has it."""
    return sealed(normalise(given), MASK)


def rows(kind: str) -> list[Any]:
    found = [
        (file.stem, row) for file in sorted(CASES.glob("*.json")) for row in load(file.stem)[kind]
    ]
    return [(option, value, expected) for option, (value, expected) in found]


def label(value: Any) -> str:
    """A test's name from a value of any kind."""
    return ascii(value)[:40].replace("\\", "")
