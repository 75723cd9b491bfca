# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The life of zygote, joiners and inits: what they do until an init supervises.

Each page that they write to costs every sandbox memory for its life. So they follow tables of
system calls: the zygote those of the launcher, which fork joiners (launcher/zygote_client.py),
joiners and inits those of the builder, a disposable process (build/init_calls.py).
"""

from __future__ import annotations

import _socket
import os

from .. import wire
from ..kernel import calls
from .logs import Log
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# The numbers of init's descriptors: the builder's socket, then what comes with its table.
PEER = 3
FIRST = PEER + 1
NULL, PTS, LISTENER, STATUS, HEALTH, LOGS = range(FIRST, FIRST + 6)


def follow(buffer: calls.Buffer) -> NoReturn:
    """Follow the launcher's tables as zygote, then a builder's as joiner and as init."""
    try:
        number = buffer.follow(PEER)
        if number >= 0:
            os.write(PEER, b"call %d\nerrno %d" % (number, calls.failed()))
            # Until the builder ends: messages that init leaves unread are errors to it (unix(7)).
            while os.getpid() == 1 and os.read(PEER, 1):
                continue
            os._exit(1)
    except ConnectionError:
        os._exit(1)  # whoever sends tables has ended or was killed
    _supervise()


def _supervise() -> NoReturn:
    peer = _socket.socket(fileno=PEER)
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
