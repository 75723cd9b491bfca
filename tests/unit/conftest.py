# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Rights that the engine has and these tests lack; the names of modules on a target."""

from __future__ import annotations

import _socket
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest
from sandlot import wire

TOP = Path(__file__).resolve().parent.parent.parent

# The name under which plugins of a checkout import what they share.
_plugins = sys.modules.setdefault("sandlot_plugins", ModuleType("sandlot_plugins"))
_plugins.__path__ = [str(TOP / "plugins")]


@pytest.fixture(autouse=True)
def buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may exceed wmem_max; messages of these tests need not."""
    if os.geteuid() != 0:
        monkeypatch.setattr(wire, "_SO_SNDBUFFORCE", _socket.SO_SNDBUF)


@pytest.fixture(scope="module")
def legacy() -> Iterator[None]:
    """The names under which Ansible runs library/ and module_utils/ on a target."""
    package = ModuleType("ansible.legacy")
    package.__path__ = [str(TOP / "library")]
    sys.modules["ansible.legacy"] = package
    ansible.module_utils.__path__.append(str(TOP / "module_utils"))
    yield
    ansible.module_utils.__path__.remove(str(TOP / "module_utils"))
    for name in [name for name in sys.modules if name.startswith("ansible.legacy")]:
        del sys.modules[name]
