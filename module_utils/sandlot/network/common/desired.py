# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The network that a host is to have, and the operations that lead to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, NamedTuple, Sequence

from ...plan import Operation
from .model import Interface, Network, Publication, Rates
from .policy import SandboxPolicy


@dataclass(frozen=True)
class Member:
    """A sandbox whose network a run makes right; ``fresh`` when the run makes its namespaces."""

    name: str
    mode: str
    interfaces: Sequence[Interface] = ()
    rates: Rates = Rates()
    fresh: bool = False


@dataclass(frozen=True)
class Desired:
    """``members`` are the sandboxes of this run; all else is of every sandbox of the host."""

    networks: Mapping[str, Network]
    interfaces: Sequence[Interface]
    publications: Sequence[Publication] = ()
    policies: Mapping[str, SandboxPolicy] = field(default_factory=dict)
    members: Sequence[Member] = ()


class Steps(NamedTuple):
    """Operations for one sandbox: its links, then their bandwidth."""

    links: Sequence[Operation]
    rates: Sequence[Operation]


@dataclass(frozen=True)
class Plan:
    """``shared`` comes before namespaces are made, so that no link is ever up without its rules.

    ``members`` come once the namespaces are pinned.
    """

    shared: Sequence[Operation] = ()
    members: Mapping[str, Steps] = field(default_factory=dict)


class Netns(NamedTuple):
    """A sandbox's network namespace: ``own``, or one that it joins."""

    path: str
    own: bool
