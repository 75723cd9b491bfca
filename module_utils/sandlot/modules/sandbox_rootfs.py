# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Make the images that sandboxes start from."""

from __future__ import annotations

from .. import converge, images, shell
from ..site import Site

ARGUMENTS = {
    "images": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": images.argument_spec(),
    },
    "purge": {"type": "bool", "default": False},
    "prune": {"type": "bool", "default": False},
    "uploads": {"type": "dict"},
}


def action(module: shell.Module, site: Site) -> shell.Json:
    params = module.params
    request = converge.request(
        None,
        images=images.normalise_all(params["images"]),
        purge=params["purge"],
        prune=params["prune"],
        check=module.check_mode,
        uploads=params["uploads"],
    )
    result = converge.converge(site, request)
    return {**converge.return_values(result), "summary": converge.changes(result)}
