# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Entry point of the launcher, and the process that forks all inits.

After a fork, a page is shared until either side writes to it. The launcher writes to its memory
with every request, so a process that does nothing else forks the inits: the zygote. It is forked
before the launcher imports its own code and that of its workers. tests/unit/test_imports.py holds
its import budget: it uses C modules (_socket, _signal), as their wrappers import enum, and neither
typing, dataclasses, re nor json.
"""

from __future__ import annotations

import _socket
import gc
import os
import sys

from ..init import process, warm_up
from ..init.memory import CAUGHT, Memory
from ..init.reaper import Reaper
from ..kernel import calls, confine, libc
from ..kernel.signals import signal
from . import inherited
from .zygote_client import Zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(root: str) -> NoReturn:
    """Run as the launcher of a root; launchers of older versions re-execute this name."""
    gc.disable()
    os.umask(0o077)
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    inherited.forget()
    if inherited.personality_changed():
        # Only execve(2) applies a personality to the layout of memory.
        from ..site import Site
        from .command import command

        os.execve(sys.executable, command(Site(root.rstrip("/")), sys.executable), os.environ)
    # Before the fork, so that builders know the address to which init receives their tables.
    zygote = _spawn(calls.Buffer())
    # Imported after the fork, so that no init carries the code of the launcher and its workers.
    from . import server

    server.serve(root, zygote)


def _spawn(buffer: calls.Buffer) -> Zygote:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        # Without holes, so that descriptors which joiners receive have numbers known to builders.
        os.dup2(theirs.detach(), process.PEER, inheritable=False)
        ours.detach()
        libc.close_from(process.PEER + 1)
        _serve(buffer)
    theirs.close()
    return Zygote(pid, ours, buffer.address)


def _serve(buffer: calls.Buffer) -> NoReturn:
    confine.set_name("sandlot-zygote")
    # A launcher that dies closes the connection, but a stopped zygote would not notice.
    confine.prctl(confine.PR_SET_PDEATHSIG, int(signal.SIGKILL))
    # Init reads them from a descriptor of its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
    init = Reaper(Memory(buffer.shared))
    for dummy in range(warm_up.ROUNDS):
        warm_up.run(buffer, init)
    # Not before: its objects would be on pages to which each init writes.
    from ..init import files  # noqa: F401

    gc.collect()
    gc.freeze()
    process.follow(buffer, init)
