# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removal of networks, at the end of a run: by then no sandbox needs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, Mapping

from ...errors import SpecError
from ...plan import Operation
from ...site import Site
from ..common.desired import Desired
from ..common.model import DEFAULT_NAME, Interface, Network
from . import nft
from .bridges import removal_operations, teardown_operations
from .observe import BridgeState
from .rules import rules_operations


def remaining(
    networks: Mapping[str, Network],
    listed: Mapping[str, Network | None],
    interfaces: Iterable[Interface],
    *,
    purge: bool,
) -> dict[str, Network]:
    """The networks of a host in the end; ``listed`` has None for one that is to be absent.

    ``purge`` leaves those that are listed, and the default one while a sandbox uses it.
    """
    used = {item.network for item in interfaces}
    left = {
        name: network
        for name, network in networks.items()
        if (not purge or name in listed or (name == DEFAULT_NAME and name in used))
        and listed.get(name, network) is not None
    }
    for name in sorted(set(networks) - set(left)):
        users = sorted({item.sandbox for item in interfaces if item.network == name})
        if users:
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            raise SpecError(
                "networks",
                name,
                f"can't be removed: used by {', '.join(users[:3])}{more}",
                hint="remove these sandboxes or attach them to another network first",
            )
    return left


def shrink_operations(
    site: Site,
    before: Mapping[str, Network],
    desired: Desired,
    state: BridgeState,
    unlinked: Iterable[str],
) -> list[Operation]:
    """Takes the host from the networks ``before``, which are in order, to the desired ones.

    ``unlinked`` are sandboxes whose present links are gone by then.
    """
    after = desired.networks
    if after and set(before) == set(after):
        return []
    state = state.without(*unlinked)
    if not after:
        return teardown_operations(site, state)
    held = replace(state.tables, present=nft.FAMILIES, listed="")
    state = replace(state, tables=held)
    return [
        *rules_operations(site, desired, state),
        *removal_operations(site, before, after, state),
    ]
