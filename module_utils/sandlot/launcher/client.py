# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Talking to the launcher; starting it when there is none."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from typing import Iterable

from ..errors import LaunchError
from ..paths import Paths
from . import protocol
from .command import command

START_SECONDS = 20.0
ANSWER_SECONDS = 300.0
# Descriptors are limited; the launcher works on fewer at a time anyway.
IN_FLIGHT = 64
_SYSTEMD = "/run/systemd/system"
UNIT = "sandlot.service"


class _Died(LaunchError):
    """No answer came."""


class Launcher:
    """The client. Lists of names are sent at once; the launcher bounds how many run in parallel."""

    def __init__(self, paths: Paths, *, python: str = "/usr/bin/python3") -> None:
        self.paths = paths
        self.python = python

    def create(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("create", names)

    def start(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("start", names)

    def stop(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("stop", names)

    def destroy(self, names: Iterable[str]) -> dict[str, LaunchError]:
        return self._all("destroy", names)

    def ping(self) -> protocol.Message | None:
        """{"version", "pid"} of the launcher, None when none runs."""
        return self._ask("ping")

    def listening(self) -> bool:
        """Whether there is a launcher, busy or not."""
        try:
            protocol.connect(self.paths.launcher_socket, timeout=ANSWER_SECONDS).close()
        except (FileNotFoundError, ConnectionError):
            return False
        return True

    def wake(self) -> None:
        """Have one that sleeps look at the clock, if there may be names to resolve again."""
        if os.path.exists(self.paths.names_file):
            self.ping()

    def upgrade(self) -> None:
        """Have a running launcher re-execute the installed code; done when the new one answers."""
        if self._ask("upgrade", to_end=True) is not None:
            self.ensure()

    def quit(self) -> None:
        """End a running launcher; sandboxes go on."""
        self._ask("quit", to_end=True)

    def _ask(self, operation: str, *, to_end: bool = False) -> protocol.Message | None:
        """Its answer; with ``to_end``, once it has closed the connection as well."""
        try:
            with protocol.connect(self.paths.launcher_socket, timeout=ANSWER_SECONDS) as connection:
                protocol.send(connection, {"op": operation})
                message, _ = protocol.receive(connection)
                while to_end and protocol.receive(connection)[0] is not None:
                    continue
                return message
        except (FileNotFoundError, ConnectionError):
            return None

    def ensure(self) -> None:
        """A launcher that answers: the running one, the system service, or one of our own."""
        if self.ping() is not None:
            return
        if not os.path.isdir(f"{self.paths.lib}/sandlot"):
            raise LaunchError(
                f"the sandlot runtime is not installed in {self.paths.lib}",
                hint="run the sandbox_host module or role first",
            )
        if not self.paths.root and os.path.isdir(_SYSTEMD):
            subprocess.run(["systemctl", "start", UNIT], check=True, stdin=subprocess.DEVNULL)
        else:
            self._spawn()
        self._await()

    def _spawn(self) -> None:
        """A daemon in its own session, with none of our descriptors, environment or directory."""
        os.makedirs(self.paths.run, mode=0o700, exist_ok=True)
        log = os.open(
            f"{self.paths.run}/launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        argv = command(self.paths, self.python)
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
                    hint=f"see {self.paths.run}/launcher.log",
                )
            time.sleep(0.005)

    def _all(self, operation: str, names: Iterable[str]) -> dict[str, LaunchError]:
        """Do ``operation`` for every name; the failures by name.

        What a launcher did not answer, because it was killed or replaced, is asked of the next
        one, once: every operation may be done twice.
        """
        failures = self._once(operation, names)
        unanswered = [name for name, failure in failures.items() if isinstance(failure, _Died)]
        for name in unanswered:
            del failures[name]
        return {**failures, **self._once(operation, unanswered)} if unanswered else failures

    def _once(self, operation: str, names: Iterable[str]) -> dict[str, LaunchError]:
        self.ensure()
        waiting = list(names)[::-1]
        pending: dict[int, tuple[str, socket.socket]] = {}
        poller = select.poll()
        failures: dict[str, LaunchError] = {}
        while waiting or pending:
            while waiting and len(pending) < IN_FLIGHT:
                name = waiting.pop()
                connection = protocol.connect(self.paths.launcher_socket, timeout=ANSWER_SECONDS)
                protocol.send(connection, {"op": operation, "name": name})
                pending[connection.fileno()] = (name, connection)
                poller.register(connection.fileno(), select.POLLIN)
            for fd in _ready(poller):
                poller.unregister(fd)
                name, connection = pending.pop(fd)
                failure = _answer(connection, operation, name)
                if failure is not None:
                    failures[name] = failure
        return failures


def _ready(poller: select.poll) -> list[int]:
    events = poller.poll(ANSWER_SECONDS * 1000)
    if not events:
        raise LaunchError(f"the launcher did not answer within {ANSWER_SECONDS:.0f} seconds")
    return [fd for fd, _ in events]


def _answer(connection: socket.socket, operation: str, name: str) -> LaunchError | None:
    with connection:
        message, _ = protocol.receive(connection)
    if message is None:
        return _Died(f"{name}: the launcher died during {operation}", hint="run again")
    if "error" in message:
        return LaunchError(str(message["error"]), hint=str(message.get("hint", "")))
    return None
