# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Does one operation on sandboxes, in a disposable child of the launcher."""

from __future__ import annotations

import gc
import os
import time

from .. import store, wire
from ..build import builder, creator
from ..errors import LaunchError, SandlotError
from ..init.policy import wants_start
from ..kernel import flock, libc, namespaces, processes
from ..kernel.signals import signal
from ..sandbox import runtime
from . import stopper

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Iterator, List, Mapping, NoReturn, Optional, Sequence, Tuple

    from ..site import SandboxPaths, Site

# Shorter than a client's wait for an answer.
WAIT_SECONDS = 240.0
_POLL_SECONDS = 0.02
ORPHAN_SECONDS = 30.0
# Operations on many sandboxes, which answer as each one is done.
TOGETHER = {"create_all": "create", "start_all": "start", "stop_all": "stop"}
OPERATIONS = frozenset(("create", "start", "stop", "destroy", *TOGETHER))
# The namespaces that a worker enters to create or start a sandbox.
_ENTERED = ("net", "uts", "ipc", "cgroup", "pid")


def run(
    site: Site,
    operation: str,
    names: Sequence[str],
    connection: Optional[_socket.socket],
    kits: Sequence[builder.StartKit],
) -> NoReturn:
    """Do the operation, answer, end. The traceback of a bug goes to launcher.log."""
    sandboxes = [site.addressed(name) for name in names]
    what = TOGETHER.get(operation, operation)
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
            wire.reply(connection, {"name": name, **answer} if operation in TOGETHER else answer)
        elif error is not None:
            os.write(2, f"{name}: {operation}: {error.message}\n".encode())

    # Sandboxes that no other worker holds come first, so that they need not wait.
    if what == "stop":
        free, held = _locked(sandboxes, what, report, wait=False)
        stopper.stop_all(free, report)
        late, dummy = _locked(held, what, report, wait=True)
        stopper.stop_all(late, report)
    elif operation in TOGETHER:
        worker = _Worker(what, report, dict(zip(names, kits)), connection)
        worker.work(worker.work(sandboxes, wait=False), wait=True)
        failed = worker.children_failed() or failed
    else:
        for sandbox in _locked(sandboxes, what, report, wait=True)[0]:
            report(sandbox.name, _attempt(sandbox, what, kits[0] if kits else None))
    os._exit(1 if failed else 0)


class _Worker:
    """Creates or starts sandboxes one after the other, each as if it were the first."""

    def __init__(
        self,
        what: str,
        report: stopper.Report,
        kits: Mapping[str, builder.StartKit],
        connection: Optional[_socket.socket],
    ) -> None:
        self.what = what
        self.report = report
        self.kits = kits
        self.children: List[int] = []
        paths = [f"/proc/self/ns/{kind}" for kind in _ENTERED]
        self.home = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        # All else belongs to one sandbox, its lock too.
        self.kept = {*self.home, *builder.descriptors(kits.values())}
        self.kept.update([] if connection is None else [connection.fileno()])

    def work(self, sandboxes: Sequence[SandboxPaths], *, wait: bool) -> List[SandboxPaths]:
        """Work on the sandboxes that are free; return those that another worker holds."""
        held: List[SandboxPaths] = []
        for sandbox in sandboxes:
            free, busy = _locked([sandbox], self.what, self.report, wait=wait)
            held += busy
            if free:
                self._work_on(sandbox)
            if not busy and sandbox.name in self.kits:
                peer = self.kits[sandbox.name].peer
                self.kept.discard(peer.fileno())
                peer.close()
            libc.close_all_but(self.kept)
        return held

    def _work_on(self, sandbox: SandboxPaths) -> None:
        kit = self.kits.get(sandbox.name)
        pid = os.fork() if self.what == "start" and _is_apart(sandbox) else None
        if pid:
            self.children.append(pid)
            return
        error = _attempt(sandbox, self.what, kit)
        self.report(sandbox.name, error)
        if pid == 0:
            os._exit(1 if error else 0)
        for fd in self.home:
            namespaces.setns(fd)
        if error:
            # A cycle of its traceback may hold sockets: to be closed before their numbers are.
            del error
            gc.collect()

    def children_failed(self) -> bool:
        """Wait for the children; whether one has failed."""
        return any([os.waitpid(pid, 0)[1] for pid in self.children])


def _is_apart(sandbox: SandboxPaths) -> bool:
    """Whether a start holds up others, or handles values that no other's mounter may have."""
    launch = stopper.launched(sandbox)
    return "first_start" in launch or bool(launch.get("secret_env"))


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
    sandboxes: Sequence[SandboxPaths], operation: str, report: stopper.Report, *, wait: bool
) -> Tuple[List[SandboxPaths], List[SandboxPaths]]:
    """Lock sandboxes; (sandboxes that we hold now, sandboxes that another worker holds)."""
    ours: List[SandboxPaths] = []
    held: List[SandboxPaths] = []
    for sandbox in sandboxes:
        try:
            if operation in ("create", "start"):
                os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
            (ours if _lock(sandbox, wait=wait) else held).append(sandbox)
        except FileNotFoundError:
            report(sandbox.name, None)  # nothing of it exists
        except LaunchError as error:
            report(sandbox.name, error)
        except OSError as error:
            report(sandbox.name, runtime.explained(sandbox, operation, error))
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
