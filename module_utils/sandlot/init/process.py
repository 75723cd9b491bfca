# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The life of zygote, joiners and inits: what they do until an init reaps.

Each page that they write to costs every sandbox memory for its life. So they follow tables of
system calls: the zygote those of the launcher, which fork joiners (launcher/zygote_client.py),
joiners and inits those of the builder, a disposable process (build/init_calls.py).
"""

from __future__ import annotations

import _socket
import os

from .. import wire
from ..kernel import calls
from .memory import CONFIG, STATE, Memory
from .reaper import Reaper
from .resume import recover, restore
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, NoReturn

# The numbers of init's descriptors: the builder's socket, then what comes with its table.
PEER = 3
FIRST = PEER + 1
NULL, PTS, LISTENER, STATUS, HEALTH, LOGS = range(FIRST, FIRST + 6)


def follow(buffer: calls.Buffer, init: Reaper) -> NoReturn:
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
    init.live(_first, _later)
    os._exit(0)


def _first(shared: Memory) -> Supervisor:
    """Make the first supervisor of the sandbox, of what the builder sends."""
    peer = _socket.socket(fileno=PEER)
    config, dummy = wire.receive_request(peer)
    if config is None:
        os._exit(1)
    sinks = LOGS + config["log_files"]
    files: Dict[str, Any] = {"status": STATUS, "health": HEALTH, "null": NULL, "pts": PTS}
    files.update(listener=LISTENER, named=tuple(range(LOGS, sinks)))
    files["sinks"] = tuple(range(sinks, sinks + config["sinks"]))
    supervisor = Supervisor(shared, config, files)
    supervisor.begin(peer)
    return supervisor


def _later(shared: Memory) -> Supervisor:
    state = shared.load(STATE)
    if state is None:
        # The first one was killed before it knew what to do.
        os._exit(1)
    supervisor = Supervisor(shared, *shared.load(CONFIG))
    restore(supervisor, state)
    recover(supervisor)
    return supervisor
