# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checks the network namespaces that sandboxes join; tells sandboxes that are in an old one."""

from __future__ import annotations

import os
from typing import Collection, Iterable, Mapping

from ..errors import LaunchError, SpecError
from ..kernel import mountinfo, netns
from ..site import Site
from ..spec import netmode
from .backends import netns_of


def check_partners(
    modes: Mapping[str, str],
    *,
    changed: Collection[str],
    checked: Collection[str],
    removed: Collection[str],
) -> None:
    """SpecError for a sandbox whose network can't be shared, before any change.

    ``modes`` has the network mode of every sandbox after the run, ``changed`` the sandboxes of the
    run. Only ``checked`` ones are refused here: a sandbox that starts from its record alone (after
    a boot) fails alone, at its start.
    """
    for name, mode in modes.items():
        partner = netmode.partner(mode)
        if partner in removed:
            problem = f"can't be removed: sandbox {name} shares its network"
            hint = f"remove {name} as well, or give it another network_mode first"
            raise SpecError("name", partner, problem, hint=hint)
        if not partner or (name not in checked and partner not in changed):
            continue
        known = modes.get(partner)
        if known is None:
            problem = f"of sandbox {name} names no sandbox of this host"
            names = ", ".join(sorted(set(modes) - {name})) or "none"
            hint = f"deploy it too; there are: {names}"
            raise SpecError("network_mode", mode, problem, hint=hint)
        if known not in netmode.OWN:
            problem = f"of sandbox {name} names one without a network of its own"
            hint = f"{partner} has network_mode {known}: use that for {name} as well"
            raise SpecError("network_mode", mode, problem, hint=hint)


def check_pins(
    site: Site, modes: Mapping[str, str], sandboxes: Iterable[str], *, may_be_made: bool
) -> None:
    """SpecError for a path that is no network namespace, or that of the host or of a sandbox.

    With ``may_be_made``, a missing path is accepted: an earlier step of the play may make it.
    """
    pins = {name: netmode.pin(mode) for name, mode in modes.items() if netmode.pin(mode)}
    if not pins:
        return
    owners = {netns.identity(site.sandbox(name).pin("net")): name for name in sandboxes}
    for name, path in pins.items():
        if may_be_made and not mountinfo.server_of(path) and not os.path.lexists(path):
            continue
        try:
            os.close(netns.open_foreign(path))
        except LaunchError as error:
            problem = f"of sandbox {name} can't be joined: {error.message}"
            raise SpecError("network_mode", modes[name], problem, hint=error.hint) from error
        owner = owners.get(netns.identity(path))
        if owner:
            problem = f"of sandbox {name} is the network namespace of sandbox {owner}"
            hint = f"use container:{owner}"
            raise SpecError("network_mode", modes[name], problem, hint=hint)


def detached(site: Site, name: str, mode: str, pid: int) -> bool:
    """Whether a sandbox runs in another network namespace than the one that it would join now."""
    path, own = netns_of(site, name, mode)
    if own or mode == netmode.HOST or (netmode.pin(mode) and mountinfo.server_of(path)):
        return False
    inode = netns.identity(path)
    return inode is not None and netns.identity(f"/proc/{pid}/ns/net") not in (inode, None)
