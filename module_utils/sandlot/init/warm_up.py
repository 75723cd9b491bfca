# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs init's code before inits are forked, without any effect.

When Python runs code for the first time, it rewrites the code, fills caches and makes objects. All
sandboxes share the pages that this changes in the zygote; otherwise each would copy them.
"""

from __future__ import annotations

import _socket
import os

from .. import wire
from ..kernel import calls
from ..kernel.call_table import Table
from .logs import SINKS
from .reaper import Reaper
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

# The interpreter rewrites a function after a few calls.
ROUNDS = 10
_CALLS = 8


def run(buffer: calls.Buffer, init: Reaper) -> None:
    _tables(buffer)
    opened = [(name, *sink.sample) for name, sink in SINKS.items()]
    count = 4 + sum([sink.sample[0] for sink in SINKS.values()])
    fds = [os.memfd_create("warm-up") for dummy in range(count)]
    config = _messages(fds)
    config["logs"] = opened
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    files = dict(zip(("status", "health", "null", "pts"), fds))
    init.memory.open()
    Supervisor(
        init.memory, config, {**files, "listener": listener.fileno(), "named": (), "sinks": fds[4:]}
    ).warm_up()
    init.warm_up()
    init.memory.close()
    listener.close()
    wire.close_all(fds)


def _tables(buffer: calls.Buffer) -> None:
    """Follow tables of calls without effect."""
    ours, theirs = wire.pair()
    fds = [os.dup(ours.fileno()), os.dup(ours.fileno())]
    # The number that the next descriptor gets.
    first = os.dup(ours.fileno())
    os.close(first)
    for last in (False, True):
        table = Table("warm-up", buffer.address, last=last)
        for fd in (first, first + 1):
            table.add("close", fd)
        for dummy in range(_CALLS):
            table.add("madvise")
        wire.transmit(ours, table.encoded(len(fds), first), fds)
    buffer.follow(theirs.fileno())
    wire.close_all(fds)
    ours.close()
    theirs.close()


def _messages(fds: list[int]) -> wire.Message:
    """Send and receive a request such as the builder's, and an answer."""
    ours, theirs = wire.pair()
    command = {"argv": ["/"], "env": {"PATH": "/"}, "cwd": "/", "user": None, "rlimits": {}}
    restart = {"policy": "no", "retries": 0}
    stop = {"signal": 15, "timeout": 1.0}
    limits: Dict[str, object] = {
        "restart": restart,
        "stop": stop,
        "log_max_size": 1 << 20,
        "restarts": 0,
    }
    wire.send(ours, {**command, **limits}, fds)
    config, received = wire.receive_request(theirs)
    wire.close_all(received)
    wire.answer(theirs, {"pid": 1})
    ours.close()
    theirs.close()
    return config or {}
