# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The launcher: serves requests, watches inits, revives them. It knows names and pids, no spec.

Disposable workers do everything that touches a sandbox, and the zygote forks inits. The launcher
sleeps in poll without a timer, unless a crashed init is due for another start.
"""

from __future__ import annotations

import _socket
import gc
import os
import sys
import time

from .. import __version__, wire
from ..build import builder, namespace
from ..errors import LaunchError, SandlotError
from ..init.policy import SETTLED, back_off
from ..kernel import confine, flock, libc
from ..kernel.loop import Loop
from ..kernel.signals import note, signal, wakeup_pipe
from ..sandbox import runtime
from ..site import Site
from . import watch, worker
from .command import command
from .refresher import Refresher
from .zygote_client import Zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, NoReturn, Optional, Sequence, Tuple

    Connection = Optional[_socket.socket]
    Names = Tuple[str, ...]
    Request = Tuple[str, Names, Connection]

MAX_WORKERS = 4
_INHERITED = "SANDLOT_DESCRIPTORS"
_STARTS = ("start", "start_all", "revive")
# A job is no sandbox to watch: it never starts again.
_FORKS = (*_STARTS, worker.RUN)


class Sandbox:
    """A running sandbox."""

    def __init__(self, pidfd: int) -> None:
        self.pidfd = pidfd
        self.started = time.monotonic()


class Server:
    def __init__(self, site: Site, zygote: Zygote, listener: _socket.socket, lock: int) -> None:
        self.site = site
        self.build_namespace = namespace.make(site.run)
        self.zygote = zygote
        self.listener = listener
        self.lock = lock
        self.loop = Loop()
        self.running: Dict[str, Sandbox] = {}
        self.workers: Dict[int, Tuple[str, Names]] = {}
        self.queue: List[Request] = []
        self.restarts: Dict[str, float] = {}
        self.failures: Dict[str, int] = {}
        self.last: Optional[Callable[[], None]] = None
        self.refresher = Refresher(site)
        self.watch = watch.Watch(site, lambda: _shed(None, ()))

    # -- the loop

    def run(self) -> NoReturn:
        self.wakeup = wakeup_pipe()
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, note)
        self.loop.watch(self.wakeup, self._on_signals)
        self.loop.watch(self.listener.fileno(), self._accept)
        for fd, on_news in self.watch.sources():
            self.loop.watch(fd, on_news)
        for name in runtime.names(self.site):
            self._adopt(name)
        gc.collect()
        gc.freeze()
        while True:
            self.loop.turn(self._wait())
            if self.last is not None and not self.workers:
                self.last()
            elif self.last is None:
                now = time.monotonic()
                for name in [name for name, due in self.restarts.items() if due <= now]:
                    del self.restarts[name]
                    self._submit("revive", (name,), None)
                self.refresher.act()
                self.watch.act()

    def _wait(self) -> Optional[float]:
        """Seconds until something is due, None when nothing is."""
        now = time.monotonic()
        names, watched = self.refresher.wait(), self.watch.due
        waits = [due - now for due in self.restarts.values()]
        waits += [] if names is None else [names]
        waits += [] if watched is None else [watched - now]
        return min(waits) if waits and self.last is None else None

    def _on_signals(self) -> None:
        numbers = os.read(self.wakeup, 4096)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._finish(self._exit)
        self._on_child()

    # -- requests

    def _accept(self) -> None:
        connection = wire.accept(self.listener)
        if connection is not None:
            connection.setblocking(False)
            self.loop.watch(connection.fileno(), lambda: self._on_request(connection))

    def _on_request(self, connection: _socket.socket) -> None:
        self.loop.unwatch(connection.fileno())
        try:
            message, fds = wire.receive_request(connection)
            wire.close_all(fds)
            operation, names = _words(message) if message else ("", ())
            asks_for_own = bool(message and message.get("own"))
        except (OSError, LaunchError, LookupError, TypeError, ValueError, EOFError):
            operation, names, asks_for_own = "", (), False
        connection.setblocking(True)
        if operation == "ping":
            own = {"own": " ".join(map(str, self._own()))} if asks_for_own else {}
            _answer(connection, {"version": __version__, "pid": os.getpid(), **own})
        elif operation == "upgrade":
            self._finish(lambda: self._upgrade(connection))
        elif operation == "quit":
            self._finish(lambda: self._quit(connection))
        elif names:
            self._submit(operation, names, connection)
        elif operation:
            error = f"the launcher, version {__version__}, can't do {operation!r}"
            _answer(connection, {"error": error, "hint": "install the runtime again: sandbox_host"})
        else:
            connection.close()

    def _own(self) -> List[int]:
        """The children that serve the launcher; there is an init for each sandbox as well."""
        return [self.zygote.pid, *self.workers, *self.watch.children, *self.refresher.children]

    def _submit(self, operation: str, names: Names, connection: Connection) -> None:
        self.queue.append((operation, names, connection))
        self._dispatch()

    def _dispatch(self) -> None:
        """Start workers for queued requests: one at a time per sandbox, a few at a time in all."""
        waiting: List[Request] = []
        busy = {name for dummy, names in self.workers.values() for name in names}
        for operation, names, connection in self.queue:
            if not busy.isdisjoint(names) or len(self.workers) >= MAX_WORKERS:
                waiting.append((operation, names, connection))
            else:
                self._fork_worker(operation, names, connection)
            busy.update(names)
        self.queue = waiting

    def _fork_worker(self, operation: str, names: Names, connection: Connection) -> None:
        """Fork a worker; for each start, the zygote also forks a joiner, which becomes init."""
        for name in names:
            self.restarts.pop(name, None)
            if operation in ("stop", "stop_all"):
                self.failures.pop(name, None)
                self._forget(name)
        try:
            kits = [self._kit() for dummy in names] if operation in _FORKS else []
            pid = os.fork()
        except LaunchError as error:
            self._refuse(operation, names, connection, error)
            return
        except OSError as error:
            problem = f"the launcher can't start a process: {error.strerror}"
            refusal = LaunchError(problem, code=error.errno or 0)
            self._refuse(operation, names, connection, refusal)
            return
        if pid == 0:
            _shed(connection, kits)
            worker.run(self.site, operation, names, connection, kits)
        self.workers[pid] = (operation, names)
        if connection is not None:
            connection.close()
        for kit in kits:
            kit.peer.close()

    def _kit(self) -> builder.StartKit:
        ours, theirs = wire.pair()
        joiner = self.zygote.fork(theirs)
        theirs.close()
        return builder.StartKit(self.build_namespace, joiner, ours, self.zygote.buffer)

    def _refuse(
        self, operation: str, names: Names, connection: Connection, error: LaunchError
    ) -> None:
        answer: wire.Message = {"error": error.message, "hint": error.hint, "errno": error.code}
        if connection is not None:
            for name in names:
                wire.reply(connection, {"name": name, **answer})
            connection.close()
        for name in names:
            if operation == "revive":
                self._schedule(name)
            else:
                self._adopt(name)

    # -- children and running sandboxes

    def _on_child(self) -> None:
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.zygote.pid:
                self._finish(self._reexecute)
            self.watch.ended(pid, wait_status)
            operation, names = self.workers.pop(pid, ("", ()))
            if operation in _FORKS:
                self.zygote.reap(len(names))
            for name in names:
                if operation == "revive" and wait_status:
                    self._schedule(name)
                elif operation in (*_STARTS, "stop", "stop_all"):
                    self._adopt(name)
        self._dispatch()

    def _adopt(self, name: str) -> None:
        """Watch a sandbox that runs; restart one whose init died without a launcher."""
        if name in self.running:
            return
        try:
            pidfd = runtime.open_init(self.site.sandbox(name))
            if pidfd is None:
                self._consider_restart(name)
                return
        except SandlotError as error:
            watch.log(f"{name}: {error}")
            return
        self.running[name] = Sandbox(pidfd)
        self.loop.watch(pidfd, lambda: self._on_init_death(name))

    def _forget(self, name: str) -> None:
        sandbox = self.running.pop(name, None)
        if sandbox is not None:
            self.loop.unwatch(sandbox.pidfd)
            os.close(sandbox.pidfd)

    def _on_init_death(self, name: str) -> None:
        settled = time.monotonic() - self.running[name].started >= SETTLED
        self._forget(name)
        if settled:
            self.failures.pop(name, None)
        self._consider_restart(name)

    def _consider_restart(self, name: str) -> None:
        """Restart an init that crashed, after a back-off, if its restart policy says so."""
        try:
            started = runtime.last_started(self.site.sandbox(name))
        except SandlotError as error:
            watch.log(f"{name}: {error}")
            return
        if started is not None and not runtime.status(self.site.sandbox(name)).get("final"):
            self._schedule(name)

    def _schedule(self, name: str) -> None:
        self.failures[name] = self.failures.get(name, 0) + 1
        self.restarts[name] = time.monotonic() + back_off(self.failures[name])

    # -- the end

    def _finish(self, action: Callable[[], None]) -> None:
        """Do ``action`` once no worker runs; new requests wait for the next launcher."""
        if self.last is None:
            self.loop.unwatch(self.listener.fileno())
        self.last = action

    def _quit(self, connection: _socket.socket) -> None:
        self.watch.end()
        # Whoever has the answer finds no launcher any more.
        self.listener.close()
        _answer(connection, {})
        self._exit()

    def _exit(self) -> NoReturn:
        self.zygote.end()
        raise SystemExit

    def _upgrade(self, connection: _socket.socket) -> None:
        """Re-execute in place: same pid, same listener; sandboxes are adopted again."""
        _answer(connection, {"pid": os.getpid()})
        self._reexecute()

    def _reexecute(self) -> None:
        kept = [self.listener.fileno(), self.lock]
        for fd in kept:
            os.set_inheritable(fd, True)
        environment = {**os.environ, _INHERITED: " ".join(str(fd) for fd in kept)}
        os.execve(sys.executable, command(self.site, sys.executable), environment)


def _shed(connection: Connection, kits: Sequence[builder.StartKit]) -> None:
    """Close all descriptors of the launcher in a new child, except the ones that it needs."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    kept = [] if connection is None else [connection.fileno()]
    libc.close_all_but([*kept, *builder.descriptors(kits)])


def _words(message: wire.Message) -> Tuple[str, Names]:
    """The operation of a request, and the sandboxes; none if no worker is needed."""
    operation = message["op"]
    if not isinstance(operation, str):
        raise TypeError("an operation has to be text")
    if operation not in worker.OPERATIONS:
        return operation, ()
    names = message["names"] if operation in worker.TOGETHER else [message["name"]]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise TypeError("names have to be text")
    return operation, tuple(names)


def _answer(connection: _socket.socket, message: wire.Message) -> None:
    """Send the only answer of a connection."""
    wire.reply(connection, message)
    connection.close()


def serve(root: str, zygote: Zygote) -> NoReturn:
    confine.set_name("sandlot")
    site = Site(root.rstrip("/"))
    inherited = [int(word) for word in os.environ.pop(_INHERITED, "").split()]
    for fd in inherited:
        os.set_inheritable(fd, False)
    if inherited:
        listener = _socket.socket(fileno=inherited[0])
        listener.setblocking(False)
        Server(site, zygote, listener, inherited[1]).run()
    lock = _lock(site)
    Server(site, zygote, wire.listen(site.launcher_socket), lock).run()


def _lock(site: Site) -> int:
    """Take the lock that makes this the only launcher of its root, until this process ends.

    The directory is not made here: a teardown may have removed it, and then it has to stay away.
    """
    try:
        lock = os.open(site.launcher_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not flock.try_take(lock):
            watch.log("another launcher serves this host")
        elif flock.in_place(lock, site.launcher_lock):
            return lock
    except FileNotFoundError:
        watch.log("the runtime has been removed")
    raise SystemExit
