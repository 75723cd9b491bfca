# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reserve subordinate id ranges for sandboxes."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from .. import idmap, lock, plan, shell
from ..errors import SpecError
from ..site import Site

ARGUMENTS = {
    "names": {"type": "list", "elements": "str", "required": True, "aliases": ["name"]},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def check_unused(site: Site, names: list[str]) -> None:
    for name in names:
        if os.path.exists(site.sandbox(name).record):
            raise SpecError("names", name, "is a sandbox", hint="remove the sandbox instead")


def action(module: shell.Module, site: Site) -> shell.Json:
    names = list(dict.fromkeys(module.params["names"]))
    gone = names if module.params["state"] == "absent" else []
    held = contextlib.nullcontext() if module.check_mode else lock.exclusive(site)
    with held:
        files = idmap.observe(site)
        ranges = {} if gone else idmap.allocate(files, names, reserved=idmap.reserved(site))
        check_unused(site, gone)
        operations = idmap.operations(site, files, ranges, gone)
        if not module.check_mode:
            plan.apply_all(operations)
    before = {name: ids for name, ids in idmap.recorded(files).items() if name in names}
    return {
        "changed": bool(operations),
        "actions": plan.descriptions(operations),
        "ranges": {name: dataclasses.asdict(ids) for name, ids in ranges.items()},
        "diff": {
            "before": {name: dataclasses.asdict(ids) for name, ids in before.items()},
            "after": {name: dataclasses.asdict(ids) for name, ids in ranges.items()},
        },
    }
