# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks of a host: bridges, addresses, published ports and the packet filter between them.

Operations apply rules first, then networks, then links. Rules may name links that do not exist
yet, so no link is ever up without its rules.
"""

from __future__ import annotations

from .backends import (
    State,
    netns_of,
    observe,
    plan,
    refresh_operations,
    rules_hold,
    teardown_operations,
    unlink,
)
from .bridge import IPV6_BY_US, check_nft, check_pyroute2, packet_filter, session
from .bridge import unowned as unowned_links
from .common.allocation import allocate
from .common.declare import argument_spec, load, load_for, normalise
from .common.desired import Desired, Member, Plan, remaining
from .common.files import (
    View,
    families_of,
    hosts_file,
    own_servers,
    resolv_conf,
    unreachable_resolvers,
)
from .common.model import Interface, Network, Publication, Rates, default_routes
from .common.names import Names, check_names
from .common.policy import CLOSED, SandboxPolicy
from .common.policy import names as policy_names
from .common.publications import (
    check_publications,
    holder,
    listeners,
    port_numbers,
    publications,
)
from .common.resolution import current as resolve_names
from .common.resolution import save as save_names
from .common.resolution import warnings as name_warnings
from .joined import check_partners, check_pins, detached

__all__ = [
    "CLOSED",
    "Desired",
    "IPV6_BY_US",
    "Interface",
    "Member",
    "Names",
    "Network",
    "Plan",
    "Publication",
    "Rates",
    "SandboxPolicy",
    "State",
    "View",
    "allocate",
    "argument_spec",
    "check_names",
    "check_nft",
    "check_partners",
    "check_pins",
    "check_publications",
    "check_pyroute2",
    "default_routes",
    "detached",
    "families_of",
    "holder",
    "hosts_file",
    "listeners",
    "load",
    "load_for",
    "name_warnings",
    "netns_of",
    "normalise",
    "observe",
    "own_servers",
    "packet_filter",
    "plan",
    "policy_names",
    "port_numbers",
    "publications",
    "refresh_operations",
    "remaining",
    "resolv_conf",
    "resolve_names",
    "rules_hold",
    "save_names",
    "session",
    "teardown_operations",
    "unlink",
    "unowned_links",
    "unreachable_resolvers",
]
