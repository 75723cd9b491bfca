# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The launcher: a fork server, one per host. It knows names and pids, never a spec.

Import budget: the standard library modules below and no others (tests/unit/test_imports.py); its
size is paid once, what a child touches is paid per sandbox. It sleeps in poll without a timer
unless a crashed init is due for another start.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Callable, Dict, List, NoReturn, Optional, Tuple

from .. import __version__, runtime, store
from ..errors import SandlotError
from ..init import process
from ..init.policy import SETTLED, back_off
from ..kernel import confine, namespaces
from ..paths import Paths
from . import builder, creator, protocol, stopper

MAX_WORKERS = 4
_LISTENER_VARIABLE = "SANDLOT_LISTENER"
Connection = Optional[socket.socket]


class Sandbox:
    """What the launcher remembers of a sandbox that runs: a pidfd and the history of crashes."""

    def __init__(self, pidfd: int) -> None:
        self.pidfd = pidfd
        self.started = time.monotonic()
        self.failures = 0


class Server:
    def __init__(self, paths: Paths, listener: socket.socket) -> None:
        self.paths = paths
        self.listener = listener
        self.poller = select.poll()
        self.handlers: Dict[int, Callable[[], None]] = {}
        self.running: Dict[str, Sandbox] = {}
        self.workers: Dict[int, Tuple[str, str]] = {}
        self.queue: List[Tuple[str, str, Connection]] = []
        self.restarts: Dict[str, float] = {}
        self.failures: Dict[str, int] = {}

    # -- the loop

    def run(self) -> NoReturn:
        self._watch(self._install_signals(), self._on_child)
        self._watch(self.listener.fileno(), self._accept)
        for name in runtime.names(self.paths):
            self._adopt(name)
        gc.freeze()
        while True:
            for fd, _ in self.poller.poll(self._timeout()):
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler()
            self._restart_due()

    def _timeout(self) -> Optional[int]:
        if not self.restarts:
            return None
        return max(0, int((min(self.restarts.values()) - time.monotonic()) * 1000) + 1)

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self.handlers[fd] = handler
        self.poller.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        del self.handlers[fd]
        self.poller.unregister(fd)

    def _install_signals(self) -> int:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        self.wakeup = reader
        return reader

    # -- requests

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        self._watch(connection.fileno(), lambda: self._on_request(connection))

    def _on_request(self, connection: socket.socket) -> None:
        self._unwatch(connection.fileno())
        connection.setblocking(True)
        try:
            message, fds = protocol.receive(connection)
        except (OSError, ValueError):
            message, fds = None, []
        protocol.close_all(fds)
        if message is None:
            connection.close()
        elif message["op"] == "ping":
            _answer(connection, {"version": __version__, "pid": os.getpid()})
        elif message["op"] == "upgrade":
            self._upgrade(connection)
        elif message["op"] == "quit":
            _answer(connection, {})
            sys.exit(0)
        else:
            self._submit(message["op"], message["name"], connection)

    def _submit(self, operation: str, name: str, connection: Connection) -> None:
        self.queue.append((operation, name, connection))
        self._dispatch()

    def _dispatch(self) -> None:
        """Start workers for what is queued: one at a time per sandbox, a few at a time in all."""
        waiting: List[Tuple[str, str, Connection]] = []
        busy = {name for _, name in self.workers.values()}
        for operation, name, connection in self.queue:
            if name in busy or len(self.workers) >= MAX_WORKERS:
                waiting.append((operation, name, connection))
            else:
                self._fork_worker(operation, name, connection)
            busy.add(name)
        self.queue = waiting

    def _fork_worker(self, operation: str, name: str, connection: Connection) -> None:
        """Fork who does it; for a start also, from the same clean state, who becomes init."""
        self.restarts.pop(name, None)
        if operation == "stop":
            self.failures.pop(name, None)
            self._forget(name)
        peers = protocol.pair() if operation in ("start", "revive") else None
        joiner = self._fork_joiner(peers[1]) if peers else 0
        pid = os.fork()
        if pid == 0:
            keep = [s for s in (connection, peers[0] if peers else None) if s is not None]
            _shed(keep)
            work(self.paths, operation, name, connection, peers[0] if peers else None, joiner)
        self.workers[pid] = (operation, name)
        for sock in (connection, *(peers or ())):
            if sock is not None:
                sock.close()

    def _fork_joiner(self, peer: socket.socket) -> int:
        pid = os.fork()
        if pid == 0:
            _shed([peer])
            process.join(peer)
        return pid

    # -- children and running sandboxes

    def _on_child(self) -> None:
        _drain(self.wakeup)
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            operation, name = self.workers.pop(pid, ("", ""))
            if operation == "revive" and wait_status:
                self._schedule(name)
            elif operation in ("start", "stop", "revive"):
                self._adopt(name)
        self._dispatch()

    def _adopt(self, name: str) -> None:
        """Watch a sandbox that runs; restart one whose init died unnoticed."""
        if name in self.running:
            return
        record = runtime.running(self.paths, name)
        if record is None:
            self._consider_restart(name)
            return
        try:
            sandbox = Sandbox(namespaces.pidfd_open(record.pid))
        except ProcessLookupError:
            self._consider_restart(name)
            return
        if namespaces.start_time(record.pid) != record.start_time:
            os.close(sandbox.pidfd)
            self._consider_restart(name)
            return
        self.running[name] = sandbox
        self._watch(sandbox.pidfd, lambda: self._on_init_death(name))

    def _forget(self, name: str) -> None:
        sandbox = self.running.pop(name, None)
        if sandbox is not None:
            self._unwatch(sandbox.pidfd)
            os.close(sandbox.pidfd)

    def _on_init_death(self, name: str) -> None:
        settled = time.monotonic() - self.running[name].started >= SETTLED
        self._forget(name)
        if settled:
            self.failures.pop(name, None)
        self._consider_restart(name)

    def _consider_restart(self, name: str) -> None:
        """Revive an init that did not end on purpose, with back-off; its policy is read then."""
        status = runtime.status(self.paths, name)
        started = store.read(self.paths.sandbox(name).init)
        if started is None or started["boot_id"] != store.boot_id() or status.get("final"):
            return
        self._schedule(name)

    def _schedule(self, name: str) -> None:
        self.failures[name] = self.failures.get(name, 0) + 1
        self.restarts[name] = time.monotonic() + back_off(self.failures[name])

    def _restart_due(self) -> None:
        now = time.monotonic()
        for name in [n for n, due in self.restarts.items() if due <= now]:
            del self.restarts[name]
            self._submit("revive", name, None)

    # -- upgrade

    def _upgrade(self, connection: socket.socket) -> None:
        """Re-execute in place: same pid, same listener; sandboxes are adopted again."""
        _answer(connection, {"pid": os.getpid()})
        os.set_inheritable(self.listener.fileno(), True)
        environment = {**os.environ, _LISTENER_VARIABLE: str(self.listener.fileno())}
        os.execve(sys.executable, command(self.paths), environment)


def command(paths: Paths) -> List[str]:
    """How to start a launcher of the installed runtime."""
    code = (
        f"import sys; sys.path.insert(0, {paths.lib!r}); "
        "from sandlot.launcher.server import main; main(sys.argv[1])"
    )
    return [sys.executable, "-ISE", "-c", code, paths.root or "/"]


def work(
    paths: Paths,
    operation: str,
    name: str,
    connection: Connection,
    peer: Optional[socket.socket],
    joiner: int,
) -> NoReturn:
    """In a worker: do it, answer, end. What is not explained here ends in launcher.log."""
    answer: protocol.Message = {}
    try:
        _work(paths, operation, name, peer, joiner)
    except SandlotError as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        answer = {"error": f"{name}: {operation}: {error.strerror or error}{where}"}
    if connection is not None:
        _answer(connection, answer)
    os._exit(1 if answer else 0)


def _work(
    paths: Paths, operation: str, name: str, peer: Optional[socket.socket], joiner: int
) -> None:
    sandbox = paths.sandbox(name)
    if operation == "destroy":
        creator.destroy(sandbox)
        return
    launch = store.read(sandbox.launch)
    if operation == "stop":
        stopper.stop(sandbox, launch)
        return
    if launch is None:
        raise SandlotError(f"{name}: there is no {sandbox.launch}", hint="deploy the sandbox again")
    if operation == "create":
        creator.create(sandbox, launch)
    elif peer is not None and runtime.running(paths, name) is None:
        restarts = (
            int(runtime.status(paths, name).get("restarts", 0)) if operation == "revive" else 0
        )
        if operation == "revive" and launch["restart"]["policy"] == "no":
            stopper.mark_crashed(sandbox)
            return
        builder.start(sandbox, launch, peer, joiner, restarts + (operation == "revive"))


def _shed(keep: List[socket.socket]) -> None:
    """In a fresh child: default signals, and no descriptor of the launcher but those named."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    kept = sorted(sock.fileno() for sock in keep)
    low = 3
    for fd in kept:
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if low > 4096 else 4096)


def _answer(connection: socket.socket, message: protocol.Message) -> None:
    try:
        protocol.send(connection, message)
    except OSError:
        pass  # the client has gone; the work is done all the same
    connection.close()


def _drain(fd: int) -> None:
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return


def _noted(_number: int, _frame: object) -> None:
    """Caught, so that the wake-up descriptor tells."""


def main(root: str) -> NoReturn:
    """Serve for the root; the standard streams are the caller's business."""
    gc.disable()
    os.umask(0o077)
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    confine.set_name("sandlot")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    paths = Paths(root.rstrip("/"))
    inherited = os.environ.pop(_LISTENER_VARIABLE, "")
    if inherited:
        listener = socket.socket(fileno=int(inherited))
        os.set_inheritable(listener.fileno(), False)
    else:
        os.makedirs(paths.run, mode=0o700, exist_ok=True)
        listener = protocol.listen(paths.launcher_socket)
    Server(paths, listener).run()
