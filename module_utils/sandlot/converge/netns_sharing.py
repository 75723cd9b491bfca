# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Network namespaces that are not a sandbox's own: who may join which, and when joining is due."""

from __future__ import annotations

import os
from typing import Iterable, Mapping, Sequence

from ..errors import LaunchError, SpecError
from ..kernel import mountinfo, netns
from ..sandbox.record import Record
from ..site import Site
from .decide import Decision, Desired, Observed


def check(
    wishes: Mapping[str, Desired],
    records: Mapping[str, Record],
    bystanders: Mapping[str, Record],
    removed: Sequence[str],
) -> None:
    """SpecError for a network that can't be shared, before any change.

    What is started from its record alone (after a boot) is left to the start, where one sandbox
    fails for itself.
    """
    everyone = {**bystanders, **records}
    for name, record in everyone.items():
        partner = record.spec.network_partner
        asked = name in records and not wishes[name].keep_image
        if partner in removed:
            raise _used(partner, name)
        if partner and (asked or partner in records):
            _check_partner(name, partner, everyone)


def _used(removed: str, by: str) -> SpecError:
    problem = f"can't be removed: sandbox {by} shares its network"
    hint = f"remove {by} as well, or give it another network_mode first"
    return SpecError("name", removed, problem, hint=hint)


def _check_partner(name: str, partner: str, everyone: Mapping[str, Record]) -> None:
    mode = f"container:{partner}"
    known = everyone.get(partner)
    if known is None:
        there = ", ".join(sorted(set(everyone) - {name})) or "none"
        problem = f"of sandbox {name} names no sandbox of this host"
        raise SpecError("network_mode", mode, problem, hint=f"deploy it too; there are: {there}")
    if not known.spec.owns_network:
        problem = f"of sandbox {name} names one without a network of its own"
        hint = f"{partner} has network_mode {known.spec.network_mode}: use that for {name} as well"
        raise SpecError("network_mode", mode, problem, hint=hint)


def check_pins(
    site: Site, records: Iterable[Record], sandboxes: Iterable[str], *, may_be_made: bool
) -> None:
    """SpecError for a path that is no network namespace, the host's, or one of a sandbox.

    With ``may_be_made``, a path that is not there yet may come from what runs before.
    """
    joining = [record for record in records if record.spec.network_pin]
    owners = {netns.identity(site.sandbox(name).pin("net")): name for name in sandboxes}
    for record in joining:
        path = record.spec.network_pin
        if not may_be_made or mountinfo.server_of(path) or os.path.lexists(path):
            _check_pin(record, path, owners)


def _check_pin(record: Record, path: str, owners: Mapping[int | None, str]) -> None:
    mode = record.spec.network_mode
    try:
        os.close(netns.open_foreign(path))
    except LaunchError as error:
        problem = f"of sandbox {record.name} can't be joined: {error.message}"
        raise SpecError("network_mode", mode, problem, hint=error.hint) from error
    owner = owners.get(netns.identity(path))
    if owner:
        problem = f"of sandbox {record.name} is the network namespace of sandbox {owner}"
        raise SpecError("network_mode", mode, problem, hint=f"use container:{owner}")


def detached(site: Site, record: Record | None, pid: int) -> bool:
    """Whether it runs in another network namespace than the one that is at its place now."""
    if record is None or record.spec.owns_network:
        return False
    partner = record.spec.network_partner
    path = site.sandbox(partner).pin("net") if partner else record.spec.network_pin
    asks_a_server = record.spec.network_pin and mountinfo.server_of(path)
    there = netns.identity(path) if path and not asks_a_server else None
    return there is not None and netns.identity(f"/proc/{pid}/ns/net") not in (there, None)


def reason(record: Record, decisions: Mapping[str, Decision], seen: Observed) -> str:
    """Why a running sandbox has to join its network namespace anew, "" if it has not."""
    partner = decisions.get(record.spec.network_partner)
    if partner and partner.create:
        return f"namespaces of {partner.name} made again"
    return "its network namespace is another now" if seen.detached else ""
