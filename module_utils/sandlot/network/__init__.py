# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks of a host: bridges, addresses, published ports and the packet filter between them.

Order of application: rules, networks, links. Rules name links that need not exist yet, so
nothing is ever up without them.
"""

from __future__ import annotations

from .bridge.adapter import session
from .bridge.bridges import network_operations, teardown_operations
from .bridge.links import link_operations, unlink_all, unlink_operations
from .bridge.manage import remaining, shrink_operations
from .bridge.observe import NetworkState, observe
from .bridge.rates import Rates, rate_operations
from .bridge.rules import rules_operations
from .common.allocation import allocate, publications
from .common.declare import argument_spec, default, load, load_for, normalise
from .common.files import hosts_file, resolv_conf, unreachable_resolvers
from .common.model import Interface, Network, Publication
from .common.names import Names, check_names
from .common.policy import CLOSED, SandboxPolicy
from .common.policy import names as policy_names
from .common.publications import check_publications, port_numbers
from .common.resolution import current as resolve_names
from .common.resolution import save as save_names
from .common.resolution import warnings as name_warnings

__all__ = [
    "CLOSED",
    "Interface",
    "Names",
    "Network",
    "NetworkState",
    "SandboxPolicy",
    "Publication",
    "Rates",
    "allocate",
    "argument_spec",
    "check_names",
    "check_publications",
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
    "remaining",
    "resolv_conf",
    "resolve_names",
    "rules_operations",
    "save_names",
    "session",
    "shrink_operations",
    "teardown_operations",
    "unlink_all",
    "unlink_operations",
    "unreachable_resolvers",
]
