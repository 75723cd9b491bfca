# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Make, restore, clone, move and remove snapshots of sandboxes."""

from __future__ import annotations

from .. import shell
from ..converge import kept
from ..converge.kept_model import SnapshotRequest
from ..site import Site

ARGUMENTS = {
    "sandbox": {"type": "str"},
    "name": {"type": "str"},
    "state": {
        "type": "str",
        "choices": ["create", "restore", "clone", "export", "import", "absent"],
        "default": "create",
    },
    "volumes": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "into": {"type": "str"},
    "options": {"type": "dict", "default": {}},
    "path": {"type": "path"},
}


def action(module: shell.Module, site: Site) -> shell.Json:
    given = {key: value for key, value in module.params.items() if value is not None}
    asked = SnapshotRequest(**given, check=module.check_mode)
    return kept.carry_out(site, asked).to_json()
