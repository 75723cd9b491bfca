# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Talking to the launcher; starting it when there is none."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from functools import partial
from typing import Callable, Dict, Iterable, Sequence

from .. import wire
from ..errors import LaunchError
from ..kernel import processes, program
from ..oserrors import remedy
from ..site import Site
from . import unresponsive
from .command import command
from .stopper import stop_timeout

START_SECONDS = 20.0
ANSWER_SECONDS = 300.0
# A launcher that lives answers a ping at once; one on a host that swaps takes a moment.
PING_SECONDS = 15.0
# After that long without any answer it is asked whether it lives.
PATIENCE_SECONDS = 5.0
# Descriptors are limited; the launcher works on fewer at a time anyway.
IN_FLIGHT = 64
# Of one request: a worker's descriptors, and answers that fit the socket unread.
TOGETHER = 128
UNIT = "sandlot.service"


class _Died(LaunchError):
    """No answer came."""


class _Silent(LaunchError):
    """There is a launcher, and it does not answer."""


Way = Callable[[Sequence[str]], Dict[str, LaunchError]]


class Launcher:
    """The client. Lists of names are sent at once; the launcher bounds how many run in parallel."""

    def __init__(self, site: Site, *, python: str = "/usr/bin/python3") -> None:
        self.site = site
        self.python = python

    def create(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("create", names)

    def start(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("start", names)

    def stop(self, names: Iterable[str]) -> dict[str, LaunchError]:
        """All at once: it takes as long as the slowest, not as all of them together.

        A launcher of an older version takes them one by one.
        """
        singly = partial(self._once, "stop")
        return _answered(names, (self._stop_together, self._stop_together, singly))

    def destroy(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("destroy", names)

    def ping(self) -> wire.Message | None:
        """{"version", "pid"} of the launcher, None when none runs; LaunchError if it is silent."""
        return self._ask("ping", PING_SECONDS)

    def listening(self) -> bool:
        """Whether there is a launcher, busy or not; one that is stopped serves nobody."""
        try:
            wire.connect(self.site.launcher_socket, timeout=0).close()
        except BlockingIOError:
            pass  # its backlog is full
        except (FileNotFoundError, ConnectionError):
            return False
        return not unresponsive.is_stopped(self.site)

    def exists(self) -> bool:
        """Whether there is a launcher, in whatever state."""
        return unresponsive.pid(self.site) is not None

    def wake(self) -> None:
        """Have one that sleeps look at the clock, if there may be names to resolve again."""
        if os.path.exists(self.site.names_file):
            self._responds()

    def upgrade(self) -> None:
        """Have a running launcher re-execute the installed code; done when the new one answers."""
        if self._responds() and self._ask("upgrade", ANSWER_SECONDS, to_end=True) is not None:
            self.ensure()

    def quit(self) -> None:
        """End a running launcher; sandboxes go on."""
        if self._responds():
            self._ask("quit", ANSWER_SECONDS, to_end=True)

    def _ask(self, operation: str, seconds: float, *, to_end: bool = False) -> wire.Message | None:
        """Its answer; with ``to_end``, once it has closed the connection as well."""
        try:
            with wire.connect(self.site.launcher_socket, timeout=seconds) as connection:
                wire.send(connection, {"op": operation})
                message, _ = wire.receive(connection)
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
        """Whether one runs; one that is stopped is continued, one that hangs is ended."""
        unresponsive.wake(self.site)
        try:
            return self.ping() is not None
        except _Silent:
            unresponsive.end(self.site)
            return False

    def ensure(self) -> None:
        """A launcher that answers: the running one, the system service, or one of our own."""
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
        """A daemon in its own session, with none of our descriptors, environment or directory."""
        os.makedirs(self.site.run, mode=0o700, exist_ok=True)
        log = os.open(
            f"{self.site.run}/launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        environment = {"PATH": program.SYSTEM_PATH, "LC_ALL": "C.UTF-8"}
        argv = command(self.site, self.python)
        process = subprocess.Popen(
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
        """Do ``operation`` for every name; the failures by name."""
        once = partial(self._once, operation)
        return _answered(names, (once, once))

    def _stop_together(self, names: Sequence[str]) -> dict[str, LaunchError]:
        """In one request for many, answered for each as it ends."""
        self.ensure()
        pending: dict[int, tuple[set[str], socket.socket]] = {}
        poller = select.poll()
        failures: dict[str, LaunchError] = {}
        for start in range(0, len(names), TOGETHER):
            some = list(names[start : start + TOGETHER])
            connection = wire.connect(self.site.launcher_socket, timeout=ANSWER_SECONDS)
            wire.send(connection, {"op": "stop_all", "names": some})
            pending[connection.fileno()] = (set(some), connection)
            poller.register(connection.fileno(), select.POLLIN)
        grace = max(stop_timeout(self.site.sandbox(name)) for name in names) if names else 0.0
        while pending:
            for fd in self._ready(poller, grace):
                waiting, connection = pending[fd]
                failures.update(_stopped(connection, waiting))
                if not waiting:
                    poller.unregister(fd)
                    connection.close()
                    del pending[fd]
        return failures

    def _once(self, operation: str, names: Iterable[str]) -> dict[str, LaunchError]:
        self.ensure()
        waiting = list(names)[::-1]
        pending: dict[int, tuple[str, socket.socket]] = {}
        poller = select.poll()
        failures: dict[str, LaunchError] = {}
        while waiting or pending:
            while waiting and len(pending) < IN_FLIGHT:
                name = waiting.pop()
                connection = wire.connect(self.site.launcher_socket, timeout=ANSWER_SECONDS)
                wire.send(connection, {"op": operation, "name": name})
                pending[connection.fileno()] = (name, connection)
                poller.register(connection.fileno(), select.POLLIN)
            for fd in self._ready(poller):
                poller.unregister(fd)
                name, connection = pending.pop(fd)
                failure = _answer(connection, operation, name)
                if failure is not None:
                    failures[name] = failure
        return failures

    def _ready(self, poller: select.poll, grace: float = 0.0) -> list[int]:
        seconds = ANSWER_SECONDS + grace
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            events = poller.poll(PATIENCE_SECONDS * 1000)
            if events:
                return [fd for fd, _ in events]
            # It, or who works for it, may have been stopped since it took the requests.
            self.ensure()
        raise LaunchError(f"the launcher did not answer within {seconds:.0f} seconds")


def _answered(names: Iterable[str], ways: Iterable[Way]) -> dict[str, LaunchError]:
    """Ask in one way after the other for what was not answered; the failures by name.

    A launcher that was killed or replaced leaves names unanswered: every operation may be done
    twice.
    """
    asked = list(names)
    failures: dict[str, LaunchError] = {}
    for ask in ways:
        found = ask(asked)
        failures.update(found)
        for name in set(asked) - set(found):
            failures.pop(name, None)
        asked = [name for name in asked if isinstance(found.get(name), _Died)]
        if not asked:
            break
    return failures


def _answer(connection: socket.socket, operation: str, name: str) -> LaunchError | None:
    with connection:
        message, _ = wire.receive(connection)
    return _failure(message, operation, name)


def _stopped(connection: socket.socket, waiting: set[str]) -> dict[str, LaunchError]:
    """The next answer: it is taken out of ``waiting``, as are all when there is none of a name."""
    message, _ = wire.receive(connection)
    named = message is not None and message.get("name") in waiting
    told = [str(message["name"])] if message and named else list(waiting)
    waiting.difference_update(told)
    found = {name: _failure(message if named else None, "stop", name) for name in told}
    return {name: failure for name, failure in found.items() if failure is not None}


def _failure(message: wire.Message | None, operation: str, name: str) -> LaunchError | None:
    if message is None:
        return _Died(f"{name}: the launcher died during {operation}", hint="run again")
    if "error" in message:
        hint = str(message.get("hint", "")) or (
            remedy(message["errno"]) if "errno" in message else ""
        )
        return LaunchError(str(message["error"]), hint=hint)
    return None
