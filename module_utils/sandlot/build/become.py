# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes a process of host root one of a sandbox's root."""

from __future__ import annotations

import os

from ..kernel import confine, namespaces


def root(user: int) -> None:
    """Become root of the sandbox's user namespace; a copy of the mount namespace made then has the
    flags of all mounts locked."""
    namespaces.setns(user, namespaces.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # That gave it the dumpability of fs.suid_dumpable (prctl(2)), and it may have copied secrets.
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    os.umask(0)
