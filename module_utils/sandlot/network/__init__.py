# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks of a host: bridges, addresses, published ports and the packet filter between them.

Order of application: rules, networks, links. Rules name links that need not exist yet, so
nothing is ever up without them.
"""

from __future__ import annotations

from .adapter import session
from .aliases import Names, check_names
from .allocate import allocate, publications
from .bridges import network_operations, teardown_operations
from .declare import default, load, load_for, normalise
from .files import hosts_file, resolv_conf, unreachable_resolvers
from .links import link_operations, unlink_all, unlink_operations
from .manage import Managed, declared, removed
from .model import Interface, Network, Publication
from .observe import NetworkState, observe
from .policy import CLOSED, SandboxPolicy
from .policy import names as policy_names
from .ports import check_publications, port_numbers
from .rates import Rates, rate_operations
from .resolution import current as resolve_names
from .resolution import save as save_names
from .resolution import warnings as name_warnings
from .rules import rules_operations

__all__ = [
    "CLOSED",
    "Interface",
    "Managed",
    "Names",
    "Network",
    "NetworkState",
    "SandboxPolicy",
    "Publication",
    "Rates",
    "allocate",
    "check_names",
    "check_publications",
    "declared",
    "default",
    "hosts_file",
    "link_operations",
    "load",
    "load_for",
    "name_warnings",
    "network_operations",
    "normalise",
    "observe",
    "policy_names",
    "port_numbers",
    "publications",
    "rate_operations",
    "removed",
    "resolv_conf",
    "resolve_names",
    "rules_operations",
    "save_names",
    "session",
    "teardown_operations",
    "unlink_all",
    "unlink_operations",
    "unreachable_resolvers",
]
