# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Dying at a chosen call, as a run does that is killed."""

from __future__ import annotations

import os
import signal


def arm(call: str, number: int) -> None:
    """From now on this process is killed by its ``number``th call of ``os.CALL``."""
    real, count = getattr(os, call), 0

    def deadly(*arguments: object, **keywords: object) -> object:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)

    setattr(os, call, deadly)
