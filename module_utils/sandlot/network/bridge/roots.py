# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Other roots on this host: forwarding is the one setting that they and we have in common.

A root whose rules drop what is forwarded for others says by this that sandlot switched forwarding
on, and that it needs it. Nothing else is shared, so that nothing can be left behind by a kill.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Iterator

from ...kernel import flock, nftables
from ...site import Site
from . import nft

_TABLE = re.compile(rb"sandlot(_[0-9a-f]{6})?")
_LOCKED = "/proc/sys/net/ipv4/ip_forward"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other root looks at forwarding or changes it; the setting itself is the lock."""
    fd = os.open(_LOCKED, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flock.take(fd)
        yield
    finally:
        os.close(fd)


def guards(site: Site, version: int) -> bool:
    """Whether another root's rules keep the forwarding of this version of IP for sandboxes."""
    return any(_guards(table, version) for table in _others(site))


def _others(site: Site) -> list[str]:
    try:
        found = nftables.tables(nftables.INET)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return []
    ours = site.nft_table.encode()
    return [name.decode() for name in found if name != ours and _TABLE.fullmatch(name)]


def _guards(table: str, version: int) -> bool:
    return f"meta nfproto ipv{version} drop" in nft.chain(table, "forward")
