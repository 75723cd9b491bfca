# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Directories, cgroups, secrets and links of sandboxes without a record."""

from __future__ import annotations

from typing import List

from .. import network
from ..sandbox import names
from ..sandbox.record import Records
from ..site import Site


def orphans(site: Site, records: Records) -> List[str]:
    """Names of sandboxes of which something exists, and links that belong to no sandbox."""
    known = names.known(site) | records.names()
    return [*sorted(known - records.names()), *network.unowned_links(site, known)]
