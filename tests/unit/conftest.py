# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What lets tests run without the rights that the engine has."""

from __future__ import annotations

import _socket
import os

import pytest
from sandlot import wire


@pytest.fixture(autouse=True)
def buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may exceed wmem_max; messages of these tests need not."""
    if os.geteuid() != 0:
        monkeypatch.setattr(wire, "_SO_SNDBUFFORCE", _socket.SO_SNDBUF)
