# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The networks of a host as one wish: which there are to be, and what takes the host there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

from ...errors import SpecError
from ...plan import Operation
from ...site import Site
from ..common.declare import load, normalise
from ..common.model import DEFAULT_NAME, Interface, Network, Publication
from ..common.policy import SandboxPolicy
from .bridges import network_operations, teardown_operations
from .observe import observe
from .rules import rules_operations


@dataclass(frozen=True)
class Managed:
    """``operations`` turn the networks ``before`` into those ``after``."""

    operations: tuple[Operation, ...]
    before: Mapping[str, Network]
    after: Mapping[str, Network]


def declared(
    site: Site,
    raw: Iterable[Mapping[str, Any]],
    interfaces: Sequence[Interface],
    publications: Sequence[Publication],
    *,
    policies: Mapping[str, SandboxPolicy],
    purge: bool = False,
) -> Managed:
    """The listed networks exist; with ``purge`` no others do, unless as the default one in use.

    ``interfaces``, ``publications`` and ``policies`` are those recorded for this host's sandboxes.
    """
    listed = normalise(site, raw)
    before = load(site)
    kept = _implicit(before, interfaces) if purge else before
    return _managed(site, before, {**kept, **listed}, interfaces, publications, policies)


def removed(
    site: Site,
    names: Iterable[str],
    interfaces: Sequence[Interface],
    publications: Sequence[Publication],
    *,
    policies: Mapping[str, SandboxPolicy],
) -> Managed:
    """The named networks do not exist."""
    before = load(site)
    gone = set(names)
    after = {name: network for name, network in before.items() if name not in gone}
    return _managed(site, before, after, interfaces, publications, policies)


def _implicit(before: Mapping[str, Network], interfaces: Iterable[Interface]) -> dict[str, Network]:
    used = any(item.network == DEFAULT_NAME for item in interfaces)
    return {DEFAULT_NAME: before[DEFAULT_NAME]} if used and DEFAULT_NAME in before else {}


def _managed(
    site: Site,
    before: Mapping[str, Network],
    after: Mapping[str, Network],
    interfaces: Sequence[Interface],
    publications: Sequence[Publication],
    policies: Mapping[str, SandboxPolicy],
) -> Managed:
    _refuse_used(before, after, interfaces)
    state = observe(site)
    # Also finds and refuses what is plugged into a bridge that is to go, recorded or not.
    operations = network_operations(site, after, state)
    if after:
        rules = rules_operations(site, after, interfaces, publications, state, policies=policies)
        operations = [*rules, *operations]
    else:
        operations = teardown_operations(site, state)
    return Managed(tuple(operations), before, after)


def _refuse_used(
    before: Mapping[str, Network], after: Mapping[str, Network], interfaces: Iterable[Interface]
) -> None:
    for name in sorted(set(before) - set(after)):
        users = sorted({item.sandbox for item in interfaces if item.network == name})
        if users:
            raise SpecError(
                "networks",
                name,
                f"can't be removed: used by {_some(users)}",
                hint="remove these sandboxes or attach them to another network first",
            )


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
