# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes a file into the root of a stopped sandbox, as root of its own user namespace.

A child mounts the root as a start does, in a mount namespace without the host's tree. It drops the
host's rights before it touches a path inside.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from functools import partial
from typing import Any, Mapping

from .. import store
from ..errors import LaunchError, SandlotError
from ..kernel import fork, namespaces
from ..kernel.files import write_all
from ..site import Site
from . import namespace, rootfs, rootplan


def write(site: Site, name: str, scratch: str, step: Mapping[str, Any], what: str) -> None:
    """Write the file of a setup step (dest, content, mode, owner); ``scratch`` is private."""
    launch = store.read(site.sandbox(name).launch)
    if launch is None:
        raise SandlotError(f"{what}: sandbox {name} has lost its launch file", hint="run again")
    with ExitStack() as stack:
        userns = os.open(site.sandbox(name).pin("user"), os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, userns)
        work = partial(_outcome, launch, userns, scratch, step)
        problem, status = fork.call(lambda _report: work().encode())
    if status or problem:
        reason = problem.decode() or f"its process ended with {status}"
        raise SandlotError(f"{what}: {reason}")


def _outcome(launch: Mapping[str, Any], userns: int, scratch: str, step: Mapping[str, Any]) -> str:
    try:
        # Encoding imports a module, and the host's modules are out of reach from the next line on.
        content = step["content"].encode()
        operations, pins = rootplan.stack(launch), {"user": userns}
        for operation in operations:
            operation.open(pins)
        namespace.enter(namespace.make(scratch), operations, pins)
        root = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        namespaces.setns(userns, namespaces.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.umask(0o022)
        _place(root, step, content)
    except OSError as error:
        return f"{error.strerror or error}"
    except LaunchError as error:
        return error.message
    return ""


def _place(root: int, step: Mapping[str, Any], content: bytes) -> None:
    """Write a new file, then rename it: a link of that name is replaced, not followed."""
    directory, dummy, leaf = step["dest"].rpartition("/")
    parent = rootfs.directory(root, directory, follow=True)
    uid, dummy, gid = step.get("owner", "0:0").partition(":")
    temporary = f".sandlot-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=parent)
    try:
        write_all(fd, content)
        os.fchown(fd, int(uid), int(gid or uid))
        os.fchmod(fd, int(step.get("mode", "0644"), 8))
        os.rename(temporary, leaf, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        os.unlink(temporary, dir_fd=parent)
        raise
    finally:
        os.close(fd)
