# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The desired network of a host, and the plan of operations that lead to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Collection, Iterable, Mapping, NamedTuple, Sequence

from ...errors import SpecError
from ...plan import Operation
from .model import DEFAULT_NAME, Interface, Network, Publication, Rates
from .policy import SandboxPolicy
from .resolution import Resolution


@dataclass(frozen=True)
class Member:
    """A sandbox whose network a run sets up; ``fresh`` if none of its links stays."""

    name: str
    mode: str
    interfaces: Sequence[Interface] = ()
    rates: Rates = Rates()
    fresh: bool = False


@dataclass(frozen=True)
class Desired:
    """``members`` are the sandboxes of the run; the other fields cover all of the host.

    ``final_networks`` are the networks at the end of the run, None if all stay; by then, the
    present links of ``unlinked`` sandboxes are gone. With ``addresses``, those of names, only the
    rules change. A check (``foreseen``) may come before nft and pyroute2 are installed. Without
    ``rules``, the present ones stay, and the other fields may leave out sandboxes.
    """

    networks: Mapping[str, Network]
    interfaces: Sequence[Interface]
    publications: Sequence[Publication] = ()
    policies: Mapping[str, SandboxPolicy] = field(default_factory=dict)
    members: Sequence[Member] = ()
    final_networks: Mapping[str, Network] | None = None
    unlinked: Collection[str] = ()
    addresses: Resolution | None = None
    foreseen: bool = False
    rules: bool = True


class Steps(NamedTuple):
    """Operations for one sandbox: its links, then their bandwidth."""

    links: Sequence[Operation]
    rates: Sequence[Operation]


@dataclass(frozen=True)
class Plan:
    """A run applies ``shared`` before it makes namespaces: no link is ever up without its rules.

    It applies ``members`` after the namespaces are pinned, and removals in ``last`` at its end.
    """

    shared: Sequence[Operation] = ()
    members: Mapping[str, Steps] = field(default_factory=dict)
    last: Sequence[Operation] = ()


class Netns(NamedTuple):
    """A sandbox's network namespace: its ``own``, or one that it joins."""

    path: str
    own: bool


def remaining(
    networks: Mapping[str, Network],
    listed: Mapping[str, Network | None],
    interfaces: Iterable[Interface],
    *,
    purge: bool,
) -> dict[str, Network]:
    """The networks of a host after a run; ``listed`` maps an absent network to None.

    With ``purge``, only listed networks remain, and the default one while a sandbox uses it.
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
