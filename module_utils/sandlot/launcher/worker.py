# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Does one operation in a disposable child of the launcher: on one sandbox, or stops many."""

from __future__ import annotations

import os
import time

from .. import store, wire
from ..build import builder, creator
from ..errors import LaunchError, SandlotError
from ..init.policy import wants_start
from ..kernel import flock, namespaces, processes
from ..kernel.signals import signal
from ..sandbox import runtime
from . import stopper

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Iterator, List, NoReturn, Optional, Sequence, Tuple

    from ..site import SandboxPaths, Site

# Shorter than a client's wait for an answer.
WAIT_SECONDS = 240.0
_POLL_SECONDS = 0.02
ORPHAN_SECONDS = 30.0
# The operation for many sandboxes, which answers as each one ends; others take one sandbox.
STOP_ALL = "stop_all"
OPERATIONS = frozenset(("create", "start", "stop", STOP_ALL, "destroy"))


def run(
    site: Site,
    operation: str,
    names: Sequence[str],
    connection: Optional[_socket.socket],
    kit: Optional[builder.StartKit],
) -> NoReturn:
    """Do the operation, answer, end. The traceback of a bug goes to launcher.log."""
    sandboxes = [site.addressed(name) for name in names]
    failed = False

    def report(name: str, error: Optional[SandlotError]) -> None:
        nonlocal failed
        failed = failed or error is not None
        answer: wire.Message = {}
        if error is not None:
            # The client finds the remedy by the error's number.
            number = {"errno": error.code} if error.code else {}
            answer = {"error": error.message, "hint": error.hint, **number}
        if connection is not None:
            wire.reply(connection, {"name": name, **answer} if operation == STOP_ALL else answer)
        elif error is not None:
            os.write(2, f"{name}: {operation}: {error.message}\n".encode())

    if operation in ("stop", STOP_ALL):
        # Sandboxes that no other worker holds come first, so that they need not wait.
        free, held = _locked(sandboxes, report, wait=False)
        stopper.stop_all(free, report)
        late, dummy = _locked(held, report, wait=True)
        stopper.stop_all(late, report)
    else:
        report(names[0], _attempt(sandboxes[0], operation, kit))
    os._exit(1 if failed else 0)


def _attempt(
    sandbox: SandboxPaths, operation: str, kit: Optional[builder.StartKit]
) -> Optional[SandlotError]:
    try:
        _work(sandbox, operation, kit)
    except SandlotError as error:
        return error
    except OSError as error:
        return runtime.explained(sandbox, operation, error)
    return None


def _work(sandbox: SandboxPaths, operation: str, kit: Optional[builder.StartKit]) -> None:
    if operation in ("create", "start"):
        os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
    try:
        _lock(sandbox, wait=True)
    except FileNotFoundError:
        return  # nothing of it exists
    if operation == "destroy":
        creator.destroy(sandbox)
        return
    launch = store.read(sandbox.launch)
    if launch is None:
        raise LaunchError(
            f"{sandbox.name}: there is no {sandbox.launch}", hint="deploy the sandbox again"
        )
    if operation == "create":
        creator.create(sandbox, launch)
    elif kit is not None and not stopper.still_runs(sandbox):
        revived = operation == "revive"
        restarts = int(runtime.status(sandbox).get("restarts", 0)) if revived else 0
        if revived and not wants_start(launch["restart"], restarts + 1, failed=True):
            runtime.finish(sandbox, "crashed")
            return
        _end_orphans(sandbox.name, launch["cgroups"])
        builder.start(sandbox, launch, kit, restarts + revived)


def _locked(
    sandboxes: Sequence[SandboxPaths], report: stopper.Report, *, wait: bool
) -> Tuple[List[SandboxPaths], List[SandboxPaths]]:
    """Lock sandboxes; (sandboxes that we hold now, sandboxes that another worker holds)."""
    ours: List[SandboxPaths] = []
    held: List[SandboxPaths] = []
    for sandbox in sandboxes:
        try:
            (ours if _lock(sandbox, wait=wait) else held).append(sandbox)
        except FileNotFoundError:
            report(sandbox.name, None)  # nothing of it exists
        except LaunchError as error:
            report(sandbox.name, error)
        except OSError as error:
            report(sandbox.name, runtime.explained(sandbox, "stop", error))
    return ours, held


def _lock(sandbox: SandboxPaths, *, wait: bool) -> bool:
    """Lock out other workers until this process ends, also workers of a killed launcher.

    The wait has a limit, as another worker may be stopped, or hang on a network file system.
    """
    fd = os.open(sandbox.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + (WAIT_SECONDS if wait else 0.0)
    if flock.take_until(fd, deadline, _POLL_SECONDS):
        return True
    os.close(fd)
    if not wait:
        return False
    holder = processes.flock_holder(sandbox.run)
    by = processes.describe(holder) if holder else "another process"
    raise LaunchError(
        f"{sandbox.name}: {by}, has been at work on it for {WAIT_SECONDS:.0f} seconds",
        hint="let it finish or end it, and run again",
    )


def _end_orphans(name: str, cgroups: Sequence[str]) -> None:
    """End inits whose state file was lost, so that two never run at once."""
    for pid in {pid for directory in cgroups for pid in _orphans(directory)}:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not namespaces.pidfd_ends(pidfd, ORPHAN_SECONDS):
                raise LaunchError(
                    f"{name}: process {pid}, an earlier init, survived SIGKILL for"
                    f" {ORPHAN_SECONDS:.0f} s",
                    hint="a process in it hangs in the kernel (a frozen cgroup, a dead file"
                    " server)",
                )
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)


def _orphans(directory: str) -> Iterator[int]:
    """Yield the processes of a cgroup that are PID 1 of a pid namespace."""
    with open(f"{directory}/cgroup.procs", encoding="ascii") as handle:
        pids = handle.read().split()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as handle:
                fields = handle.read().partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if len(fields) > 1 and fields[-1] == b"1":
            yield int(pid)
