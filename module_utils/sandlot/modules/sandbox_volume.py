# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Make, change or remove a volume."""

from __future__ import annotations

from .. import converge, shell, volumes
from ..site import Site

ARGUMENTS = volumes.argument_spec()


def action(module: shell.Module, site: Site) -> shell.Json:
    listed = volumes.normalise_one(module.params)
    request = converge.request(None, volumes=listed, check=module.check_mode)
    return converge.return_values(converge.converge(site, request))
