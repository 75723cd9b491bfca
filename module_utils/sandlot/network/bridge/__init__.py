# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The back end for bridges of the host: veth pairs, nftables rules, token buckets."""

from __future__ import annotations

from .adapter import check_version as check_pyroute2
from .adapter import session
from .links import unlink, unowned
from .manage import plan
from .nft import check_version as check_nft
from .nft import observe as packet_filter
from .observe import observe
from .rules import hold as rules_hold
from .sysctls import IPV6_BY_US

__all__ = [
    "IPV6_BY_US",
    "check_nft",
    "check_pyroute2",
    "observe",
    "packet_filter",
    "plan",
    "rules_hold",
    "session",
    "unlink",
    "unowned",
]
