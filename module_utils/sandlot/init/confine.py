# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Gives init the ids, capabilities and system call filter of the workload, with no way back."""

from __future__ import annotations

import os

from ..kernel import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional


def plan(
    mask: int, ambient: int, seccomp: Optional[bytes], *, no_new_privileges: bool
) -> Dict[str, Any]:
    """Prepare the input of ``apply``, in a process that can still ask the kernel.

    Root has the capabilities of ``mask``, another user those of ``ambient``.
    """
    known = range(confine.last_capability() + 1)
    return {
        "granted": [number for number in known if ambient >> number & 1],
        "dropped": [number for number in known if not mask >> number & 1],
        "mask": mask,
        "ambient": ambient,
        "seccomp": seccomp,
        "no_new_privileges": no_new_privileges,
    }


def apply(config: Mapping[str, Any]) -> None:
    """Drop every capability that the sandbox is not granted, from all five sets.

    For uid 0 the bounding set decides what exec yields; for another uid granted capabilities have
    to be ambient to survive exec (capabilities(7)). Init itself has all of them: a command of exec
    may be another user's.
    """
    mask, uid, gid = config["mask"], config["uid"], config["gid"]
    confine.new_session_keyring()
    confine.drop_bounding(config["dropped"])
    if config["seccomp"] is not None:
        # While CAP_SYS_ADMIN is there: without it, no_new_privs would have to be set (seccomp(2)).
        confine.load_seccomp(config["seccomp"])
    os.setgroups(config["groups"])
    os.setresgid(gid, gid, gid)
    confine.prctl(confine.PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    confine.prctl(confine.PR_SET_KEEPCAPS, 0)
    confine.set_capabilities(mask, mask, config["ambient"] if uid else 0)
    confine.set_ambient(config["granted"] if uid else ())
    if config["no_new_privileges"]:
        confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
