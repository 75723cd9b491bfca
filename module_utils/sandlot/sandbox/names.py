# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names of the sandboxes of a host, told by what they left on it."""

from __future__ import annotations

from .. import cgroups
from ..site import Site
from . import record, runtime


def known(site: Site) -> set[str]:
    """Every sandbox that left a trace: a directory under state or run, or a cgroup."""
    return {*record.names(site), *runtime.names(site), *cgroups.names(site)}
