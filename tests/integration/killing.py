# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Kills a run after any of its steps, or after any of its calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from sandlot import plan


def killed_after(number: int, action: Callable[[], Any]) -> bool:
    """Whether a run was killed after its ``number``th step."""
    pid = os.fork()
    if pid == 0:
        apply, count = plan._apply, 0

        def apply_counted(operation: plan.Operation, failures: plan.Failures) -> None:
            nonlocal count
            apply(operation, failures)
            count += bool(operation.action or operation.silent)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        plan._apply = apply_counted
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def killed_at(number: int, call: str, modules: Any, action: Callable[[], Any]) -> bool:
    """Whether a run was killed after the ``number``th call of os by one of ``modules``."""
    pid = os.fork()
    if pid == 0:
        deadly = Deadly(call, number)
        for module in modules:
            module.os = deadly
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


class Deadly:
    """The module os, whose ``number``th ``call`` kills the process after it was done."""

    def __init__(self, call: str, number: int) -> None:
        self.call, self.left = call, number

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name != self.call:
            return found

        def deadly(*arguments: Any, **options: Any) -> Any:
            result = found(*arguments, **options)
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return deadly
