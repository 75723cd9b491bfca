# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Mounts that are replaced as this kernel can, and as kernels before 6.5 can."""

from __future__ import annotations

import pytest
from sandlot.build import beneath


def without_beneath(_mount: int, _place: int) -> bool:
    """As on kernels before 6.5."""
    return False


@pytest.fixture(params=["beneath", "before 6.5"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, one after the other."""
    if request.param != "beneath":
        monkeypatch.setattr(beneath, "attach", without_beneath)
