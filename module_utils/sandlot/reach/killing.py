# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Signals workloads, by their inits."""

from __future__ import annotations

import socket

from .. import wire
from ..errors import SandlotError
from ..kernel import namespaces, processes
from ..kernel.signals import signal
from ..sandbox import runtime
from ..sandbox.runtime import Running
from ..site import Site
from . import command, ending

# After SIGKILL, the kernel takes its time for a large memory; docker waits as long.
_SECONDS = 10.0


def kill(site: Site, name: str, number: int) -> None:
    """Signal the workload; after SIGKILL, wait until the sandbox has ended.

    SIGKILL and the stop signal of the sandbox are followed by no restart, any other end by what the
    restart policy says.
    """
    init = command.find(site, name)
    with command.dial(site, name, init) as connection:
        connection.settimeout(command.CONNECT_SECONDS)
        try:
            wire.send(connection, {"op": "kill", "signal": number})
            answer, fds = wire.receive(connection)
        except socket.timeout as error:
            raise command.silent(name) from error
        except (BrokenPipeError, ConnectionResetError):
            answer, fds = None, []
    wire.close_all(fds)
    _check(name, init, answer)
    if answer and "pid" in answer:
        _signal(init, int(answer["pid"]), number)
    if number == signal.SIGKILL and not runtime.has_ended(init, _SECONDS):
        raise SandlotError(
            f"{name}: the workload survives SIGKILL for {_SECONDS:.0f} seconds",
            hint=f"a process hangs in the kernel, or is frozen: sandlot stop {name}",
        )


def _check(name: str, init: Running, answer: wire.Message | None) -> None:
    if answer is None and not runtime.has_ended(init, command.ENDING):
        raise SandlotError(f"{name}: init did not answer", hint="try again")
    if answer and "error" in answer:
        is_old = answer["error"] == wire.OLDER
        hint = f"restart it: sandlot restart {name}" if is_old else "see its state: sandlot list"
        raise SandlotError(f"{name}: {answer['error']}", hint=hint)


def _signal(init: Running, inside: int, number: int) -> None:
    """Signal a workload that has another user than its init."""
    if namespaces.start_time(init.pid) == init.start_time:
        pid = ending.child(init, inside)
        if pid:
            processes.send_signal(pid, number, lambda pid: pid in processes.children(init.pid))
