# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Other roots on this host: forwarding is the one setting that all roots share.

Rules of a root that drop packets forwarded for others tell that sandlot switched forwarding on and
that this root needs it. Nothing else is shared, so a kill can leave nothing behind.
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
    try:
        names = nftables.tables(nftables.INET)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return False
    ours, drop = site.nft_table.encode(), f"meta nfproto ipv{version} drop"
    others = [name.decode() for name in names if name != ours and _TABLE.fullmatch(name)]
    return any(drop in nft.chain(table, "forward") for table in others)
