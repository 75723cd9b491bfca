# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sends a running init the settings that it can change without a restart."""

from __future__ import annotations

from typing import Any, Mapping

from .. import wire
from ..errors import LaunchError
from ..kernel import processes
from ..site import SandboxPaths
from . import runtime
from .launchfile import LIVE

ANSWER_SECONDS = 10.0


def differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return any(before.get(key) != after.get(key) for key in LIVE)


def configure(sandbox: SandboxPaths, launch: Mapping[str, Any]) -> None:
    running = runtime.running(sandbox)
    if running is not None:
        runtime.check_protocol(sandbox.name, running)
        if processes.is_stopped(running.pid):
            raise _unreachable(sandbox, "it is stopped")
    config = {key: launch.get(key) for key in LIVE}
    try:
        # The timeout covers connecting: an init that accepts nobody must not hold up the lock.
        with wire.connect(sandbox.socket, timeout=ANSWER_SECONDS) as connection:
            wire.send(connection, {"op": "configure", "config": config})
            answer, dummy = wire.receive(connection)
    except OSError as error:
        raise _unreachable(sandbox, str(error)) from error
    if answer is None or "error" in answer:
        raise _unreachable(sandbox, str(answer))
    checked = "health" in runtime.status(sandbox)
    if launch.get("healthcheck") and not checked:
        raise _unreachable(sandbox, "it is of a version without healthchecks")


def _unreachable(sandbox: SandboxPaths, problem: str) -> LaunchError:
    return LaunchError(
        f"init of {sandbox.name} did not take over its new settings: {problem}",
        hint="run again with restart: true",
    )
