# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Addresses behind the names of egress lists, brought up to date between runs."""

from __future__ import annotations

import os

from .. import lock, network
from ..plan import apply_all, descriptions
from ..site import Site
from .observe import observe
from .resolve import Request, resolve


def refresh(site: Site) -> list[str]:
    """Resolve all names again; what was changed. A host without names is left alone."""
    if not os.path.exists(site.names_file):
        return []
    with lock.exclusive(site):
        # A teardown may have been under way.
        return _refresh(site) if os.path.exists(site.names_file) else []


def _refresh(site: Site) -> list[str]:
    seen = observe(site, [])
    whole = resolve(site, Request(()), seen)
    found = network.resolve_names(site, network.policy_names(seen.networks, whole.policies))
    desired = whole.desired_network(seen.networks)
    operations = network.refresh_operations(site, desired, seen.network, found)
    apply_all(operations)
    # Also when nothing else has changed: addresses live on from when they were last seen.
    network.save_names(site, found)
    return descriptions(operations)
