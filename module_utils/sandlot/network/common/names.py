# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The names by which sandboxes of a network find each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

from ...errors import SpecError


@dataclass(frozen=True)
class Names:
    """Aliases by (sandbox, network), and for each sandbox those that share its network."""

    aliases: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    sharers: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of(self, sandbox: str, network: str) -> list[str]:
        """All names of one interface; the sandbox's own name comes first."""
        aliases = self.aliases.get((sandbox, network), ())
        return list(dict.fromkeys((sandbox, *aliases, *self.sharers.get(sandbox, ()))))


def check_names(members: Mapping[str, Sequence[str]], names: Names) -> None:
    """SpecError when an alias is another sandbox's name or alias on the same network.

    ``members`` are the networks of each sandbox. A resolver could take either of two equal names.
    """
    holders = {
        (network, name.lower()): sandbox
        for sandbox, networks in members.items()
        for network in networks
        for name in (sandbox, *names.sharers.get(sandbox, ()))
    }
    for (sandbox, network), aliases in names.aliases.items():
        for alias in aliases:
            holder = holders.setdefault((network, alias.lower()), sandbox)
            if holder != sandbox:
                raise SpecError(
                    "aliases",
                    alias,
                    f"of sandbox {sandbox} is a name of sandbox {holder} on network {network}",
                    hint="choose another alias",
                )
