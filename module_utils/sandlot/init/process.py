# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Turns a clean fork of the zygote into PID 1: join the namespaces, fork, confine, supervise.

Each page that these functions write to costs every sandbox memory for its life. So they do little,
import nothing after the fork, and leave building to disposable processes.
"""

from __future__ import annotations

import _socket
import os

from .. import wire
from ..kernel import namespaces
from ..kernel.confine import set_name
from ..kernel.signals import signal
from . import child, confine
from .logs import Log
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def join(peer: _socket.socket) -> NoReturn:
    """The joiner: enter the builder's pins, make the pid namespace, fork init, report its pid."""
    message, fds = wire.receive_request(peer)
    if message is None:
        os._exit(1)
    try:
        for flag, fd in zip(message["flags"], fds):
            namespaces.setns(fd, flag)
            os.close(fd)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWCGROUP)
        pid = child.fork()
    except OSError as error:
        wire.answer(peer, _refused("entering the namespaces", error))
        os._exit(1)
    if pid:
        # Sent as a number: credentials on the socket would have no pid in the builder's namespace.
        try:
            peer.send(b"pid %d" % pid)
        except OSError:
            # The builder has been killed, or it waits for an answer as long as init lives.
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
    _init(peer)


def _refused(what: str, error: OSError) -> wire.Message:
    return {"error": f"{what}: {error.strerror}", "errno": error.errno or 0}


def _init(peer: _socket.socket) -> NoReturn:
    os.setsid()
    set_name("sandlot-init")
    config, fds = wire.receive_request(peer)
    if config is None:
        os._exit(1)
    mnt, null, pts, listener, status, health, *rest = fds
    named, sinks = rest[: config["log_files"]], rest[config["log_files"] :]
    try:
        namespaces.setns(mnt, namespaces.CLONE_NEWNS)
        os.close(mnt)
        os.chdir("/")
        os.umask(0o022)
        for target in (0, 1, 2):
            os.dup2(null, target)
        confine.apply(config)
    except OSError as error:
        wire.answer(peer, _refused("confining init", error))
        os._exit(1)
    logs = Log(config["logs"], sinks, config)
    server = _socket.socket(fileno=listener)
    files = {"status": status, "health": health, "null": null, "pts": pts}
    Supervisor(config, peer, server, logs, named=named, **files).run()
    os._exit(0)
