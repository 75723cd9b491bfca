# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Converge one sandbox."""

from __future__ import annotations

from .. import converge, shell
from ..site import Site
from ..spec import argument_spec, normalise

ARGUMENTS = argument_spec()


def action(module: shell.Module, site: Site) -> shell.Json:
    spec = normalise(module.params)
    request = converge.request(
        [spec], check=module.check_mode, diff=module._diff, watch=converge.WATCH
    )
    result = converge.converge(site, request)
    return {
        **converge.return_values(result),
        "sandbox": result.sandboxes.get(spec.name, {"name": spec.name, "state": "absent"}),
        "relaxed": result.relaxed.get(spec.name, []),
    }
