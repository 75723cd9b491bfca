# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The whole option table."""

from __future__ import annotations

from .option import Option, Reach
from .table import (
    configuration,
    identity,
    limits,
    network,
    security,
    snapshots,
    storage,
    supervision,
    workload,
)

OPTIONS: tuple[Option, ...] = (
    *identity.OPTIONS,
    *workload.OPTIONS,
    *storage.OPTIONS,
    *configuration.OPTIONS,
    *network.OPTIONS,
    *limits.OPTIONS,
    *security.OPTIONS,
    *supervision.OPTIONS,
    *snapshots.OPTIONS,
)
STORED: tuple[Option, ...] = tuple(option for option in OPTIONS if option.change is not None)
NAMES: tuple[str, ...] = tuple(option.name for option in OPTIONS)
SECRET: frozenset[str] = frozenset(option.name for option in OPTIONS if option.secret)
# Of each secret option, the suboptions whose values can be shown.
SHOWN: dict[str, frozenset[str]] = {
    option.name: frozenset(inner.name for inner in option.suboptions if not inner.secret)
    for option in OPTIONS
    if option.secret
}
BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}


def reaching(*parts: Reach) -> tuple[Option, ...]:
    """The options that one of these parts acts on."""
    return tuple(option for option in OPTIONS if not option.reaches.isdisjoint(parts))
