# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks of a host: bridges, addresses, published ports and the packet filter between them.

Order of application: rules, networks, links. Rules name links that need not exist yet, so
nothing is ever up without them.
"""

from __future__ import annotations

from .adapter import session
from .allocate import allocate, publications
from .bridges import network_operations, teardown_operations
from .declare import default, load, load_for, normalise
from .files import hosts_file, resolv_conf
from .links import link_operations, unlink_all, unlink_operations
from .manage import Managed, declared, removed
from .model import Interface, Network, Publication
from .observe import NetworkState, observe
from .ports import check_publications
from .rates import Rates, rate_operations
from .rules import rules_operations

__all__ = [
    "Interface",
    "Managed",
    "Network",
    "NetworkState",
    "Publication",
    "Rates",
    "allocate",
    "check_publications",
    "declared",
    "default",
    "hosts_file",
    "link_operations",
    "load",
    "load_for",
    "network_operations",
    "normalise",
    "observe",
    "publications",
    "rate_operations",
    "removed",
    "resolv_conf",
    "rules_operations",
    "session",
    "teardown_operations",
    "unlink_all",
    "unlink_operations",
]
