# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The state of a supervisor as plain values, and how another one goes on from it.

Descriptors are numbers in it, as all supervisors and PID 1 have one table of them (CLONE_FILES).
Timers are the names of methods, and times of the monotonic clock.
"""

from __future__ import annotations

import _socket

from ..kernel import libc
from . import child, memory
from .exec import ACCEPT
from .health import CHECK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    # Its module imports this one.
    Supervisor = Any

MAIN = "main"


def state(of: Supervisor) -> Dict[str, Any]:
    main, peer, health = of.main, of.peer, of.health
    return {
        "status": of.status.values.copy(),
        "policy": of.policy.saved(),
        "logs": of.logs.saved(),
        "exec": of.exec.saved(),
        "health": health.saved() if health is not None else None,
        "main": (main.pid, main.report) if main is not None else None,
        "streams": of.streams.copy(),
        "peer": peer.fileno() if peer is not None else None,
        "flags": (of.ending, of.preparing, of.held, of.done),
        "timers": of.loop.timers,
    }


def restore(new: Supervisor, state: Dict[str, Any]) -> None:
    new.saved = state
    new.changed = False
    new.status.values = state["status"].copy()
    new.policy.restore(state["policy"])
    new.logs.restore(state["logs"])
    new.ending, new.preparing, new.held, new.done = state["flags"]
    if state["peer"] is not None:
        new.peer = _socket.socket(fileno=state["peer"])
    for reader, stream in state["streams"].items():
        new.watch_output(stream, reader)
    new.set_main(child.Child(*state["main"]) if state["main"] is not None else None)
    # A change of the configuration may have been saved without its turn.
    healthcheck = new.config.get("healthcheck")
    if state["health"] is not None and healthcheck:
        new.health = new.healthcheck(healthcheck)
    owners = {MAIN: new, CHECK: new.health, ACCEPT: new.exec}
    for name, due, method in state["timers"]:
        if owners[name] is not None:
            new.loop.at(name, due, getattr(owners[name], method))
    if new.health is not None:
        new.health.restore(state["health"])
    else:
        new.set_healthcheck(healthcheck)
    new.memory.tell_all(every=new.ending)
    new.exec.restore(state["exec"], state.get("unserved"))


def recover(new: Supervisor) -> None:
    """End and close what a supervisor that was killed had started and opened, but not saved.

    One that ends by itself has saved all, with a request that it could not serve.
    """
    main, peer, health = new.main, new.peer, new.health
    known = {*([main.pid] if main is not None else []), *new.exec.pids}
    known |= set(health.pids) if health is not None else set()
    for pid in new.memory.running():
        if pid not in known:
            child.kill(pid)
    if "unserved" not in new.saved:
        new.exec.close_unserved()
    kept = {*memory.retired, *new.memory.descriptors, *new.streams, *new.exec.descriptors}
    for fds in new.files.values():
        kept |= set(fds) if isinstance(fds, (list, tuple)) else {fds}
    if main is not None and main.report is not None:
        kept.add(main.report)
    if peer is not None:
        kept.add(peer.fileno())
    libc.close_all_but(kept)
