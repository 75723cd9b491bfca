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
    from typing import (
        Any,
        Callable,
        Iterator,
        List,
        Mapping,
        NoReturn,
        Optional,
        Sequence,
        Tuple,
    )

    from ..site import SandboxPaths, Site

# Shorter than a client's wait for an answer.
WAIT_SECONDS = 240.0
_POLL_SECONDS = 0.02
ORPHAN_SECONDS = 30.0
# Operations on many sandboxes, which answer as each one is done.
TOGETHER = {"create_all": "create", "start_all": "start", "stop_all": "stop"}
# Makes namespaces for a job, and starts it in them.
RUN = "run"
OPERATIONS = frozenset(("create", "start", "stop", "destroy", RUN, *TOGETHER))
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
        stopper.stop_all([sandbox for sandbox, dummy in free], report)
        late = _locked(held, what, report, wait=True)[0]
        stopper.stop_all([sandbox for sandbox, dummy in late], report)
    elif operation in TOGETHER:
        worker = _Worker(what, report, dict(zip(names, kits)), connection)
        for sandbox in worker.work(sandboxes, wait=False):
            worker.work([sandbox], wait=True)
        failed = worker.children_failed() or failed
    else:
        for sandbox, dummy in _locked(sandboxes, what, report, wait=True)[0]:
            task = _Task(sandbox, what, kits[0] if kits else None)
            task.attempt(task.begin)
            task.attempt(task.finish)
            report(sandbox.name, task.error)
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
        # All else belongs to one sandbox.
        self.shared = [*self.home, *([] if connection is None else [connection.fileno()])]
        self.kept = {*self.shared, *builder.descriptors(kits.values())}

    def work(self, sandboxes: Sequence[SandboxPaths], *, wait: bool) -> List[SandboxPaths]:
        """Work on the sandboxes that are free; return those that another worker holds."""
        free, held = _locked(sandboxes, self.what, self.report, wait=wait)
        self.kept.update(lock for dummy, lock in free)
        tasks = [_Task(sandbox, self.what, self.kits.get(sandbox.name)) for sandbox, dummy in free]
        for task in tasks:
            task.attempt(task.begin)
        for task, (dummy, lock) in zip(tasks, free):
            self._finish(task, lock)
            self.kept.discard(lock)
            if task.kit is not None:
                self.kept.discard(task.kit.peer.fileno())
                task.kit.peer.close()
            libc.close_all_but(self.kept)
        return held

    def _finish(self, task: _Task, lock: int) -> None:
        pid = os.fork() if task.is_apart() else None
        if pid:
            self.children.append(pid)
            return
        if pid == 0:
            # The locks of the others would be held as long as this process lives.
            own = builder.descriptors([task.kit] if task.kit else [])
            libc.close_all_but([*self.shared, lock, *own])
        task.attempt(task.finish)
        self.report(task.sandbox.name, task.error)
        if pid == 0:
            os._exit(1 if task.error else 0)
        for fd in self.home:
            namespaces.setns(fd)
        if task.error:
            # A cycle of its traceback may hold sockets: to be closed before their numbers are.
            task.error = None
            gc.collect()

    def children_failed(self) -> bool:
        """Wait for the children; whether one has failed."""
        statuses = [os.waitpid(pid, 0)[1] for pid in self.children]
        return any(statuses)


class _Task:
    """The work on one sandbox, in two parts: ``begin`` is done for all of a batch first."""

    def __init__(
        self, sandbox: SandboxPaths, operation: str, kit: Optional[builder.StartKit]
    ) -> None:
        self.sandbox = sandbox
        self.operation = operation
        self.kit = kit
        self.error: Optional[SandlotError] = None
        self._launch: Mapping[str, Any] = {}
        self._restarts = 0
        self._todo = True

    def attempt(self, part: Callable[[], None]) -> None:
        """Call ``begin`` or ``finish``, unless nothing is left to do."""
        try:
            if self._todo:
                part()
        except SandlotError as error:
            self.error = error
        except OSError as error:
            self.error = runtime.explained(self.sandbox, self.operation, error)
        self._todo = self._todo and self.error is None

    def is_apart(self) -> bool:
        """Whether it handles values that no other's mounter may have."""
        secret = bool(self._launch.get("secret_env"))
        return self._todo and secret and self.operation == "start"

    def begin(self) -> None:
        sandbox, revived = self.sandbox, self.operation == "revive"
        if self.operation == "destroy":
            return
        launch = store.read(sandbox.launch)
        if launch is None:
            raise LaunchError(
                f"{sandbox.name}: there is no {sandbox.launch}", hint="deploy the sandbox again"
            )
        self._launch = launch
        if self.kit is None:
            return
        self._todo = runtime.settled(sandbox) is None
        if not self._todo:
            return
        self._restarts = int(runtime.status(sandbox).get("restarts", 0)) + 1 if revived else 0
        if revived and not wants_start(launch["restart"], self._restarts, failed=True):
            runtime.finish(sandbox, "crashed")
            self._todo = False
            return
        _end_orphans(sandbox.name, launch["cgroups"])
        builder.attach(sandbox, launch, self.kit)

    def finish(self) -> None:
        if self.operation == "destroy":
            creator.destroy(self.sandbox)
        elif self.operation == "create":
            creator.create(self.sandbox, self._launch)
        elif self.operation == RUN and self.kit is not None:
            own = creator.opened(self._launch)
            builder.start(self.sandbox, self._launch, self.kit, 0, own)
        elif self.kit is not None:
            builder.start(self.sandbox, self._launch, self.kit, self._restarts)


def _locked(
    sandboxes: Sequence[SandboxPaths], operation: str, report: stopper.Report, *, wait: bool
) -> Tuple[List[Tuple[SandboxPaths, int]], List[SandboxPaths]]:
    """Lock sandboxes; (ours with their locks, sandboxes that another worker holds)."""
    ours: List[Tuple[SandboxPaths, int]] = []
    held: List[SandboxPaths] = []
    for sandbox in sandboxes:
        try:
            if operation in ("create", "start"):
                os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
            lock = _lock(sandbox, wait=wait)
            if lock is None:
                held.append(sandbox)
            else:
                ours.append((sandbox, lock))
        except FileNotFoundError:
            report(sandbox.name, None)  # nothing of it exists
        except LaunchError as error:
            report(sandbox.name, error)
        except OSError as error:
            report(sandbox.name, runtime.explained(sandbox, operation, error))
    return ours, held


def _lock(sandbox: SandboxPaths, *, wait: bool) -> Optional[int]:
    """Lock out other workers until the descriptor is closed, also workers of a killed launcher.

    The wait has a limit, as another worker may be stopped, or hang on a network file system.
    """
    fd = os.open(sandbox.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + (WAIT_SECONDS if wait else 0.0)
    if flock.take_until(fd, deadline, _POLL_SECONDS):
        return fd
    os.close(fd)
    if not wait:
        return None
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
