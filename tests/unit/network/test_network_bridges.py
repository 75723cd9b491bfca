# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A new bridge and the udev of its host."""

from __future__ import annotations

from pathlib import Path

import pytest
from sandlot.kernel import program
from sandlot.network.bridge import bridges


@pytest.mark.parametrize("has_udev", [True, False])
def test_a_new_bridge_waits_for_udev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_udev: bool
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(bridges, "UDEV", str(tmp_path / "control"))
    monkeypatch.setattr(program, "check", lambda argv, *, hint: calls.append(argv))
    if has_udev:
        (tmp_path / "control").touch()
    bridges.await_udev()
    assert calls == ([["udevadm", "settle", "--timeout=60"]] if has_udev else [])
