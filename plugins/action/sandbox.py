# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The action plugin of each module of sandlot: their classes are in plugin_utils."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def _shared(name: str) -> ModuleType:
    """A module of plugin_utils: Ansible has no package for the plugins of a checkout."""
    package = __name__.rpartition(".action.")[0]
    if not package.startswith("ansible_collections."):
        package = "sandlot_plugins"
        plugins = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        sys.modules.setdefault(package, ModuleType(package)).__path__ = [plugins]
    return importlib.import_module(f"{package}.plugin_utils.{name}")


_OWN = {
    "sandbox": "uploads",
    "sandbox_host": "packages",
    "sandbox_rootfs": "uploads",
    "sandboxes": "deployments",
}

ActionModule = _shared(_OWN.get(__name__.rpartition(".")[2], "engine")).Action
