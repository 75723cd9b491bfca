# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names of a sandbox's interfaces."""

from __future__ import annotations

from itertools import count
from typing import Iterable, Sequence

from .model import Interface


def interface_names(networks: Sequence[str], kept: Iterable[Interface]) -> dict[str, str]:
    """By network: the name it has already, so that no change renames it, or the lowest free one."""
    before = {item.network: item.ifname for item in kept}
    named = {network: before[network] for network in networks if network in before}
    free = (name for name in (f"eth{index}" for index in count()) if name not in named.values())
    return {network: named.get(network) or next(free) for network in networks}
