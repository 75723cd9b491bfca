# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Turns a clean fork of the zygote into PID 1: join the namespaces, fork, confine, supervise.

Each page that these functions write to costs every sandbox memory for its life. So they play tables
of system calls that the builder, a disposable process, compiles (build/init_calls.py).
"""

from __future__ import annotations

import _socket
import os

from .. import wire
from ..kernel import calls
from ..kernel.signals import signal
from . import child
from .logs import Log
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# The numbers of init's descriptors: the builder's socket, then what comes with its table.
PEER = 3
FIRST = PEER + 1
NULL, PTS, LISTENER, STATUS, HEALTH, LOGS = range(FIRST, FIRST + 6)


def join(buffer: calls.Buffer, peer: int) -> NoReturn:
    """The joiner: enter the builder's pins, make the pid namespace, fork init, report its pid."""
    # The zygote's own socket had this number.
    os.dup2(peer, PEER, inheritable=False)
    os.close(peer)
    _play(buffer)
    try:
        pid = child.fork()
    except OSError as error:
        text = f"entering the namespaces: {error.strerror}"
        wire.answer(_peer(), {"error": text, "errno": error.errno or 0})
        os._exit(1)
    if pid:
        # Sent as a number: credentials on the socket would have no pid in the builder's namespace.
        try:
            os.write(PEER, b"pid %d" % pid)
        except OSError:
            # The builder has been killed, or it waits for an answer as long as init lives.
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
    _play(buffer)
    _supervise()


def _peer() -> _socket.socket:
    return _socket.socket(fileno=PEER)


def _play(buffer: calls.Buffer) -> None:
    """Make the calls of the builder's next table; end if one fails, which the builder explains."""
    try:
        begin, end = buffer.receive(PEER)
        at = buffer.play(begin, end)
        if at == end:
            return
        os.write(PEER, b"call %d\nerrno %d" % ((at - begin) // calls.ROW, calls.failed()))
        # Until the builder ends: unread messages would make its next receive fail (unix(7)).
        while os.read(PEER, 1):
            continue
    except ConnectionError:
        pass  # the builder has been killed
    os._exit(1)


def _supervise() -> NoReturn:
    peer = _peer()
    config, dummy = wire.receive_request(peer)
    if config is None:
        os._exit(1)
    sinks = LOGS + config["log_files"]
    named = range(LOGS, sinks)
    logs = Log(config["logs"], range(sinks, sinks + config["sinks"]), config)
    server = _socket.socket(fileno=LISTENER)
    files = {"status": STATUS, "health": HEALTH, "null": NULL, "pts": PTS}
    Supervisor(config, peer, server, logs, named=named, **files).run()
    os._exit(0)
