# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Talks to the launcher, and starts it when there is none."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from functools import partial
from typing import Callable, Dict, Iterable, Iterator, Sequence

from .. import wire
from ..errors import LaunchError
from ..kernel import flock, processes, program
from ..oserrors import remedy
from ..site import Site
from . import unresponsive
from .command import command, interpreter
from .stopper import prepares, stop_timeout

START_SECONDS = 20.0
ANSWER_SECONDS = 300.0
# A launcher answers a ping at once; on a host that swaps, after a moment.
PING_SECONDS = 15.0
# After that long without an answer, the client pings the launcher.
PATIENCE_SECONDS = 5.0
# How long to wait for a launcher to end, before the client asks its successor to end too.
_TURN_SECONDS = 0.5
# The most requests at a time: descriptors are limited, and the launcher works on fewer anyway.
IN_FLIGHT = 64
# The most names in one request. A worker stops all of them at a time, and its descriptors are
# limited; it creates and starts one after the other, so one that hangs holds up the next ones.
TOGETHER = {"stop_all": 128, "create_all": 8, "start_all": 8}
UNIT = "sandlot.service"


class _Died(LaunchError):
    """The launcher died before it answered."""


class _Silent(LaunchError):
    """The launcher does not answer."""


Way = Callable[[Sequence[str]], Dict[str, LaunchError]]


class Launcher:
    """The client of the launcher; it sends all requests at once, and the launcher runs a few."""

    def __init__(self, site: Site, *, python: str = "") -> None:
        self.site = site
        self.python = python or interpreter()

    def create(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("create", names)

    def start(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("start", names)

    def stop(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("stop", names)

    def destroy(self, names: Iterable[str]) -> dict[str, LaunchError]:
        once = partial(self._requested, "destroy")
        return _answered(names, (once, once))

    def run(self, names: Iterable[str]) -> dict[str, LaunchError]:
        once = partial(self._requested, "run")
        return _answered(names, (once, once))

    def ping(self) -> wire.Message | None:
        """Version and pid of the launcher, None when none runs; LaunchError if it is silent."""
        return self._ask("ping", PING_SECONDS)

    def listening(self) -> bool:
        """Whether there is a launcher, busy or not; a stopped one does not count."""
        if unresponsive.runs(self.site):
            return True
        try:
            wire.connect(self.site.launcher_socket, timeout=0).close()
        except BlockingIOError:
            pass  # its backlog is full
        except (FileNotFoundError, ConnectionError):
            return False
        return not unresponsive.is_stopped(self.site)

    def exists(self) -> bool:
        """Whether there is a launcher, in any state."""
        return unresponsive.pid(self.site) is not None

    def wake(self) -> None:
        """Wake the launcher to look at the clock, if names may have to be resolved again."""
        if os.path.exists(self.site.names_file):
            self._responds()

    def upgrade(self) -> None:
        """Make a running launcher re-execute the installed code; return once it answers."""
        if self._responds() and self._ask("upgrade", ANSWER_SECONDS, to_end=True) is not None:
            self.ensure()

    def quit(self) -> None:
        """End a running launcher; sandboxes go on."""
        if self._responds():
            self._ask("quit", ANSWER_SECONDS, to_end=True)

    @contextlib.contextmanager
    def kept_out(self) -> Iterator[None]:
        """End the launcher and hold its lock, so that no other launcher starts."""
        lock = os.open(self.site.launcher_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + START_SECONDS
        try:
            while not flock.take_until(lock, time.monotonic() + _TURN_SECONDS, 0.005):
                if time.monotonic() >= deadline:
                    raise LaunchError(
                        f"the launcher did not end within {START_SECONDS:.0f} seconds",
                        hint=f"see sandlot launcher --status and {self.site.run}/launcher.log",
                    )
                self.quit()
            yield
        finally:
            os.close(lock)

    def _ask(
        self, operation: str, seconds: float, *, to_end: bool = False, own: bool = False
    ) -> wire.Message | None:
        """Send a request; the answer. With ``to_end``, wait until the launcher closes as well.

        With ``own``, the answer has the pids of the children that serve the launcher.
        """
        try:
            with wire.connect(self.site.launcher_socket, timeout=seconds) as connection:
                wire.send(connection, {"op": operation, **({"own": True} if own else {})})
                message, dummy = wire.receive(connection)
                while to_end and wire.receive(connection)[0] is not None:
                    continue
                return message
        except (FileNotFoundError, ConnectionError):
            return None
        except (BlockingIOError, socket.timeout) as error:
            pid = unresponsive.pid(self.site)
            who = f"the launcher, {processes.describe(pid)}," if pid else "the launcher"
            raise _Silent(
                f"{who} did not answer '{operation}' within {seconds:.0f} seconds",
                hint="run again; if that does not help, end it: sandboxes go on without it",
            ) from error

    def _responds(self) -> bool:
        """Whether a launcher answers; continue a stopped launcher and end a hanging one."""
        if not unresponsive.runs(self.site):
            unresponsive.wake(self.site)
        try:
            answer = self._ask("ping", PING_SECONDS, own=True)
            if answer is not None:
                unresponsive.wake_own(self.site, answer.get("own"))
            return answer is not None
        except _Silent:
            unresponsive.end(self.site)
            return False

    def ensure(self) -> None:
        """Make sure that a launcher answers; start the system's service, else a daemon."""
        if self._responds():
            return
        if not os.path.isdir(f"{self.site.lib}/sandlot"):
            raise LaunchError(
                f"the sandlot runtime is not installed in {self.site.lib}",
                hint="run the sandbox_host module or role first",
            )
        if self.site.has_systemd:
            program.check(["systemctl", "start", UNIT], hint=f"see journalctl -u {UNIT}")
        else:
            self._spawn()
        self._await()

    def _spawn(self) -> None:
        """Start a launcher in its own session, without our descriptors and environment."""
        os.makedirs(self.site.run, mode=0o700, exist_ok=True)
        log = os.open(
            f"{self.site.run}/launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        environment = {"PATH": program.SYSTEM_PATH, "LC_ALL": "C.UTF-8"}
        argv = command(self.site, self.python)
        process = program.start(
            ["/usr/bin/setsid", "--fork", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
        )
        os.close(log)
        process.wait()

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.ping() is None:
            if time.monotonic() >= deadline:
                raise LaunchError(
                    f"the launcher did not start within {START_SECONDS:.0f} seconds",
                    hint=f"see {self.site.run}/launcher.log",
                )
            time.sleep(0.005)

    def _all(self, operation: str, names: Iterable[str]) -> dict[str, LaunchError]:
        """Request ``operation`` for many sandboxes together; the failures by name.

        A launcher of an older version does not know the request, and gets one for each sandbox.
        """
        together = partial(self._requested, f"{operation}_all")
        return _answered(names, (together, together, partial(self._requested, operation)))

    def _requested(self, operation: str, names: Sequence[str]) -> dict[str, LaunchError]:
        self.ensure()
        waiting = self._batches(operation, names)[::-1]
        stopping = operation in ("stop", "stop_all")
        grace = max(stop_timeout(self.site.sandbox(n)) for n in names) if stopping and names else 0
        pending: dict[int, tuple[set[str], socket.socket]] = {}
        poller = select.poll()
        failures: dict[str, LaunchError] = {}
        while waiting or pending:
            while waiting and len(pending) < IN_FLIGHT:
                some = waiting.pop()
                request = {"names": some} if operation in TOGETHER else {"name": some[0]}
                connection = self._asked({"op": operation, **request})
                if connection is None:
                    failures.update((name, _died(operation, name)) for name in some)
                    continue
                pending[connection.fileno()] = (set(some), connection)
                poller.register(connection.fileno(), select.POLLIN)
            for fd in self._ready(poller, grace) if pending else ():
                unanswered, connection = pending[fd]
                failures.update(_answer(connection, operation, unanswered))
                if not unanswered:
                    poller.unregister(fd)
                    connection.close()
                    del pending[fd]
        return failures

    def _batches(self, operation: str, names: Sequence[str]) -> list[list[str]]:
        """The names of each request.

        The launcher neither stops nor revives a sandbox before the end of its request, so one that
        prepares for minutes is started by a request of its own.
        """
        size = TOGETHER.get(operation, 1)
        alone = [
            name for name in names if operation == "start_all" and prepares(self.site.sandbox(name))
        ]
        rest = [name for name in names if name not in alone]
        batches = [rest[start : start + size] for start in range(0, len(rest), size)]
        return batches + [[name] for name in alone]

    def _asked(self, message: wire.Message) -> socket.socket | None:
        """Send a request; None when the launcher dies or re-executes before it has read it."""
        connection = None
        try:
            connection = wire.connect(self.site.launcher_socket, timeout=ANSWER_SECONDS)
            wire.send(connection, message)
        except (ConnectionError, FileNotFoundError):
            if connection is not None:
                connection.close()
            return None
        return connection

    def _ready(self, poller: select.poll, grace: float = 0.0) -> list[int]:
        seconds = ANSWER_SECONDS + grace
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            events = poller.poll(PATIENCE_SECONDS * 1000)
            if events:
                return [fd for fd, dummy in events]
            # The launcher or a worker may have got SIGSTOP since it took the requests.
            self.ensure()
        raise LaunchError(f"the launcher did not answer within {seconds:.0f} seconds")


def _answered(names: Iterable[str], ways: Iterable[Way]) -> dict[str, LaunchError]:
    """Try one way to ask after the other until every name has an answer; failures by name.

    A launcher that is killed or replaced leaves names unanswered. They are asked for again, so
    every operation has to be safe to repeat.
    """
    asked = list(names)
    failures: dict[str, LaunchError] = {}
    for ask in ways:
        failed = ask(asked)
        failures.update(failed)
        for name in set(asked) - set(failed):
            failures.pop(name, None)
        asked = [name for name in asked if isinstance(failed.get(name), _Died)]
        if not asked:
            break
    return failures


def _answer(
    connection: socket.socket, operation: str, unanswered: set[str]
) -> dict[str, LaunchError]:
    """Take the next answer's name out of ``unanswered``; all names when the launcher has died."""
    message, dummy = wire.receive(connection)
    # A request for one sandbox has an answer without a name.
    named = message is not None and (operation not in TOGETHER or message.get("name") in unanswered)
    answered = [str(message["name"])] if message and named and "name" in message else [*unanswered]
    unanswered.difference_update(answered)
    results = {name: _failure(message if named else None, operation, name) for name in answered}
    return {name: failure for name, failure in results.items() if failure is not None}


def _died(operation: str, name: str) -> _Died:
    what = operation.partition("_")[0]
    return _Died(f"{name}: the launcher died during {what}", hint="run again")


def _failure(message: wire.Message | None, operation: str, name: str) -> LaunchError | None:
    if message is None:
        return _died(operation, name)
    if "error" in message:
        hint = str(message.get("hint", "")) or (
            remedy(message["errno"]) if "errno" in message else ""
        )
        return LaunchError(str(message["error"]), hint=hint)
    return None
