# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Converge the networks that sandboxes attach to."""

from __future__ import annotations

from .. import converge, network, shell
from ..site import Site

ARGUMENTS = {
    "networks": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": network.argument_spec(),
    },
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "purge": {"type": "bool", "default": False},
}


def action(module: shell.Module, site: Site) -> shell.Json:
    raw, absent = module.params["networks"], module.params["state"] == "absent"
    gone = {item["name"]: None for item in raw}
    request = converge.request(
        None,
        networks=gone if absent else network.normalise(site, raw),
        purge=module.params["purge"] and not absent,
        check=module.check_mode,
    )
    result = converge.converge(site, request)
    return {**converge.return_values(result), "relaxed": result.relaxed_networks}
