# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandboxes that a start, stop or restart looks at, in place of all of the host.

The others are left out only while the host is in order: each is whole, and the rules of the network
are in force.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, List

from .. import network, store
from ..errors import StateError
from ..sandbox import etcfiles, mounts, names, record
from ..site import Site
from . import dependencies
from .decide import ALL_PINS
from .observe import Observation
from .resolve import published

# As json.dumps writes it.
_WHOLE = b'"phase": "present"'


def around(site: Site, asked: Iterable[str]) -> FrozenSet[str] | None:
    """The asked sandboxes, those that they need, and those with a tie to them; None for all.

    A record without their names and those of their volumes has no tie to them, and is not parsed.
    """
    texts: Dict[str, bytes] = {}
    try:
        for name in names.recorded(site):
            texts[name] = store.read_bytes(site.sandbox(name).record) or b""
        if not texts.keys() >= {*asked} or not all(_WHOLE in text for text in texts.values()):
            return None
        words = [word for name in asked for word in _mentions(site, name)]
        tied = {name for name, text in texts.items() if any(word in text for word in words)}
        return frozenset(_with_needs(site, {*asked, *tied}, texts))
    except StateError:
        return None


def _mentions(site: Site, name: str) -> List[bytes]:
    """The ways in which a record names a sandbox, as itself or after "container:", or its volumes.

    A volume has a path behind it, or stands alone.
    """
    known = record.load(site, name)
    volumes = mounts.volume_names(known) if known else ()
    words = [f'"{name}"', f':{name}"', *(f'"{x}{end}' for x in volumes for end in ':"')]
    return [word.encode() for word in words]


def _with_needs(site: Site, chosen: set[str], present: Iterable[str]) -> set[str]:
    waiting = [*chosen]
    while waiting:
        known = record.load(site, waiting.pop())
        needed = {*dependencies.ties(known)} if known else set()
        fresh = (needed & {*present}) - chosen
        chosen |= fresh
        waiting += fresh
    return chosen


def suffices(site: Site, observed: Observation, asked: Iterable[str]) -> bool:
    """Whether all that a part of the host needs is in order; the caller looks at all if not."""
    good = observed.records.good
    if observed.records.broken or not good.keys() >= {*asked}:
        return False
    for name in asked:
        if observed.sandboxes[name].pins != ALL_PINS or not etcfiles.are_there(site, name):
            return False
    desired = network.Desired(
        observed.networks,
        [item for entry in good.values() for item in entry.interfaces],
        published(good.values()),
        {name: entry.policy for name, entry in good.items()},
    )
    return network.rules_hold(site, desired, observed.network)
