# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Read what sandboxes a host has and how they do."""

from __future__ import annotations

from .. import audit, converge, shell
from ..site import Site

ARGUMENTS = {
    "names": {"type": "list", "elements": "str", "aliases": ["name"]},
    "sizes": {"type": "bool", "default": False},
    "audit": {"type": "bool", "default": False},
}


def action(module: shell.Module, site: Site) -> shell.Json:
    measured = module.params["sizes"]
    sizes = converge.layer_sizes(site) if measured else {}
    known = converge.info(site, module.params["names"])
    return {
        "changed": False,
        "sandboxes": [{**entry, **sizes.get(entry["name"], {})} for entry in known],
        "volumes": converge.volumes_info(site, measured=measured),
        **({"audit": audit.audit(site, module.params["names"])} if module.params["audit"] else {}),
    }
