# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Shows the host's Python in a running sandbox for the time of commands.

Each of them holds a shared lock on a file of the sandbox, which the kernel releases when it dies;
the exclusive lock is the right to mount and unmount. The last one unmounts. A mount stays while a
process inside uses it, or when its commands were killed; the next command of the sandbox unmounts
it then. It goes with the mount namespace of the sandbox, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Iterator

from .. import store
from ..build import live_tree
from ..errors import SandlotError
from ..kernel import flock
from ..kernel.files import pwrite_all
from ..sandbox import runtime
from ..sandbox.runtime import Running
from ..site import SandboxPaths
from . import host_python
from .errors import Stopped
from .python_place import PLACE

_LEAF = os.path.basename(PLACE)
WAIT_SECONDS = host_python.WAIT_SECONDS
_POLL_SECONDS = 0.01
_NOTE_SIZE = 128


@contextlib.contextmanager
def shown(sandbox: SandboxPaths, init: Running, *, stays: bool = False) -> Iterator[None]:
    """Show the tree for the time of the block, and for other blocks of the sandbox.

    With ``stays``, a command that goes on after the block keeps it, until another one ends.
    """
    fd = _held(sandbox, init)
    try:
        yield
    finally:
        try:
            if not stays:
                _give_up(sandbox, fd)
        finally:
            os.close(fd)


def clean(sandbox: SandboxPaths) -> None:
    """Unmount what commands have left that were killed, unless a process inside uses it."""
    if not os.path.exists(sandbox.python):
        return
    fd = _opened(sandbox)
    try:
        _give_up(sandbox, fd)
    finally:
        os.close(fd)


def _held(sandbox: SandboxPaths, init: Running) -> int:
    """A descriptor with the shared lock, once the tree is mounted."""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        if runtime.has_ended(init, 0):
            raise Stopped(f"{sandbox.name} is starting or ending now", hint="try again")
        fd = _opened(sandbox)
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, fd)
            if flock.try_take(fd, shared=True) and _is_mounted(sandbox, init, fd):
                closing.pop_all()
                return fd
            # This gives the shared lock up, so one of several processes gets it.
            if flock.try_take(fd) and flock.in_place(fd, sandbox.python):
                if not _is_mounted(sandbox, init, fd):
                    _mount(sandbox, init, fd)
                continue
        time.sleep(_POLL_SECONDS)
    problem = f"others have mounted the host's Python for {WAIT_SECONDS:.0f} seconds"
    raise SandlotError(
        f"{sandbox.name}: {problem}", hint="let them finish, or end them; then try again"
    )


def _opened(sandbox: SandboxPaths) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(sandbox.python, flags, 0o600)


def _is_mounted(sandbox: SandboxPaths, init: Running, fd: int) -> bool:
    """Whether the file is that of the sandbox, and its mount is there."""
    text = os.pread(fd, _NOTE_SIZE, 0)
    if not text or not flock.in_place(fd, sandbox.python):
        return False
    return live_tree.is_mounted(init, json.loads(text)["mount"], _LEAF)


def _mount(sandbox: SandboxPaths, init: Running, fd: int) -> None:
    launch = store.read(sandbox.launch) or {}
    with host_python.tree(sandbox.site) as directory:
        name = host_python.name_of(directory)

        def note(number: int) -> None:
            """Write the id in one piece, whatever was there."""
            text = json.dumps({"mount": number, "tree": name})
            pwrite_all(fd, text.ljust(_NOTE_SIZE).encode(), 0)

        tree = live_tree.Shown(directory, _LEAF, bool(launch.get("idmap")))
        live_tree.attach(sandbox, init, tree, sandbox.site.run, note)


def _give_up(sandbox: SandboxPaths, fd: int) -> None:
    """Unmount the tree, if nobody else has the lock and no process inside uses it."""
    if not flock.try_take(fd) or not flock.in_place(fd, sandbox.python):
        return
    init = runtime.running(sandbox)
    if init is None or not _is_mounted(sandbox, init, fd):
        store.unlink(sandbox.python)
    elif live_tree.detach(sandbox, init, _LEAF):
        store.unlink(sandbox.python)
