# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Asks the kernel what it can do by trying it, without leaving anything behind."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Iterator

from ..kernel import mounts, namespaces

_REFUSALS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


def maps_ids(directory: str) -> bool:
    """Whether mounts of the file system at ``directory`` can be id-mapped (mount_setattr(2))."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    try:
        with user_namespace() as userns:
            tree = mounts.clone_tree(directory)
            try:
                mounts.set_attributes(tree, 0, userns=userns)
            finally:
                os.close(tree)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        return False
    return True


@contextlib.contextmanager
def user_namespace() -> Iterator[int]:
    """A descriptor of a user namespace with one id mapped; it ends with the descriptor."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _unshare_and_wait(ready[1], go)
    try:
        os.close(ready[1])
        code = int(os.read(ready[0], 16) or errno.EIO)
        if code:
            raise OSError(code, f"unshare of a user namespace: {os.strerror(code)}")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{kind}", "w", encoding="ascii") as handle:
                handle.write("0 0 1\n")
        userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready[0], *go):
            os.close(fd)
        os.waitpid(pid, 0)
    try:
        yield userns
    finally:
        os.close(userns)


def _unshare_and_wait(ready: int, go: tuple[int, int]) -> None:
    """In the child: say what came of it, and stay until the other end is closed."""
    os.close(go[1])
    code = 0
    try:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
    except OSError as error:
        code = error.errno or errno.EIO
    os.write(ready, str(code).encode())
    os.read(go[0], 1)
    os._exit(0)
