# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One operation on one sandbox, in a disposable child of the launcher."""

from __future__ import annotations

import fcntl
import os
import sys

from .. import runtime, store
from ..errors import LaunchError, SandlotError
from . import builder, creator, protocol, stopper

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, Mapping, NoReturn, Optional

    from ..paths import Paths, SandboxPaths

OPERATIONS = frozenset(("create", "start", "stop", "destroy"))


def run(
    paths: Paths,
    operation: str,
    name: str,
    connection: Optional[_socket.socket],
    means: Optional[builder.Means],
) -> NoReturn:
    """Do it, answer, end. What is not explained here ends in launcher.log."""
    answer: protocol.Message = {}
    try:
        _work(paths.sandbox(name), operation, means)
    except SandlotError as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        answer = {"error": f"{name}: {operation}: {error.strerror or error}{where}"}
    if connection is not None:
        _answer(connection, answer)
    elif answer:
        print(f"{name}: {operation}: {answer['error']}", file=sys.stderr, flush=True)
    os._exit(1 if answer else 0)


def _answer(connection: _socket.socket, answer: protocol.Message) -> None:
    try:
        protocol.answer(connection, answer)
    except OSError:
        pass  # the client has gone; the work is done all the same


def _work(sandbox: SandboxPaths, operation: str, means: Optional[builder.Means]) -> None:
    launch = store.read(sandbox.launch)
    if operation in ("create", "start"):
        os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
    if not _locked(sandbox):
        return
    if operation == "destroy":
        creator.destroy(sandbox)
    elif operation == "stop":
        stopper.stop(sandbox, launch)
    elif launch is None:
        raise LaunchError(
            f"{sandbox.name}: there is no {sandbox.launch}", hint="deploy the sandbox again"
        )
    elif operation == "create":
        creator.create(sandbox, launch)
    elif means is not None and not stopper.still_runs(sandbox):
        _start(sandbox, launch, means, revived=operation == "revive")


def _locked(sandbox: SandboxPaths) -> bool:
    """Wait for a worker that a killed launcher left behind; False when nothing of it exists."""
    try:
        fd = os.open(sandbox.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(fd, fcntl.LOCK_EX)
    return True


def _start(
    sandbox: SandboxPaths,
    launch: Mapping[str, Any],
    means: builder.Means,
    *,
    revived: bool,
) -> None:
    restarts = int(runtime.status(sandbox.host, sandbox.name).get("restarts", 0)) if revived else 0
    if revived and not _may_restart(launch["restart"], restarts):
        stopper.finish(sandbox, "crashed")
        return
    builder.start(sandbox, launch, means, restarts + revived)


def _may_restart(restart: Mapping[str, Any], restarts: int) -> bool:
    """Whether the policy wants another start after a crash of init, which counts as a failure."""
    if restart["policy"] == "on-failure":
        return not 0 < restart["retries"] <= restarts
    return bool(restart["policy"] != "no")
