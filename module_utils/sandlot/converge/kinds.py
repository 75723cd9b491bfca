# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The kinds of things that one call converges: their argument specs and their parsers."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Mapping

from .. import images, network, spec, volumes
from ..plan import Change
from ..site import Site
from ..spec.options import BY_NAME

Json = Dict[str, Any]
ALLOW_CHANGES = "allow_changes"


def argument_spec() -> Json:
    """Ansible's argument spec of all kinds, each a list of mappings."""
    rows = {
        "images": images.argument_spec(),
        "networks": network.argument_spec(),
        "volumes": volumes.argument_spec(),
        "sandboxes": spec.argument_spec(),
    }
    return {
        kind: {"type": "list", "elements": "dict", "options": row} for kind, row in rows.items()
    }


def normalised(site: Site, params: Mapping[str, Any]) -> Json:
    """The kinds that are given, as ``request`` takes them; SpecError for a wrong value."""
    parsers: Dict[str, Callable[[Any], Any]] = {
        "images": images.normalise_all,
        "networks": partial(network.normalise, site),
        "volumes": volumes.normalise,
        "sandboxes": partial(spec.normalise_all, defaults=params["defaults"]),
    }
    default = params["defaults"].get(ALLOW_CHANGES)
    allowed = BY_NAME[ALLOW_CHANGES].value(default, "defaults.")
    given = {kind: params[kind] for kind in parsers if params[kind] is not None}
    parsed = {kind: parsers[kind](raw) for kind, raw in given.items()}
    return {
        "specs": parsed.pop("sandboxes", None),
        "allow_changes": Change(allowed),
        **parsed,
    }
