# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""How init becomes what the workload will be: same ids, capabilities, filter, no way back."""

from __future__ import annotations

import base64
import os
from typing import Any, Mapping

from ..kernel import confine


def apply(config: Mapping[str, Any]) -> None:
    """Give up everything the sandbox is not granted, from all five capability sets.

    For uid 0 the bounding set decides what exec yields; for another uid granted capabilities have
    to be ambient to survive exec (capabilities(7)).
    """
    mask, uid = config["capabilities"], config["uid"]
    kept = mask if uid else 0
    confine.new_session_keyring()
    confine.drop_bounding_except(mask)
    os.setgroups(config["groups"])
    os.setresgid(config["gid"], config["gid"], config["gid"])
    confine.prctl(confine.PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    confine.prctl(confine.PR_SET_KEEPCAPS, 0)
    confine.set_capabilities(mask, mask, kept)
    confine.set_ambient(kept)
    confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    if config["seccomp"] is not None:
        confine.load_seccomp(base64.b64decode(config["seccomp"]))
