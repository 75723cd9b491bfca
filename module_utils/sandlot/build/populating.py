# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies what the root of a sandbox has at a path into a volume, as root of its user namespace.

A child stacks the root as a start does, read-only, in a mount namespace without the host's tree. It
drops the host's rights before it touches a path inside. Owners in the volume become the ids inside,
because it is mounted as in the sandbox.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import Any, Mapping

from ..errors import LaunchError, SandlotError
from ..kernel import fork, mounts, namespaces
from ..kernel.copying import copy_tree
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID
from ..site import SandboxPaths
from . import namespace, rootplan

_COPIED, _NOTHING = "copied", "nothing"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def copy(sandbox: SandboxPaths, launch: Mapping[str, Any], target: str, data: str) -> bool:
    """Copy the directory ``target`` of the root of ``launch`` to ``data``; False without one.

    Owner, mode and times of the directory itself are copied too.
    """
    with ExitStack() as stack:
        userns = os.open(sandbox.pin("user"), os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, userns)

        def work(_report: int) -> bytes:
            return _outcome(sandbox.run, launch, userns, target, data).encode()

        answer, status = fork.call(work)
    if status or answer.decode() not in (_COPIED, _NOTHING):
        reason = answer.decode() or f"its process ended with {status}"
        raise SandlotError(f"{target} can't be copied to the volume: {reason}")
    return answer.decode() == _COPIED


def _outcome(scratch: str, launch: Mapping[str, Any], userns: int, target: str, data: str) -> str:
    try:
        operations, pins = rootplan.view(launch), {"user": userns}
        for operation in operations:
            operation.open(pins)
        mount = mounts.clone_tree(data)
        mounts.set_attributes(mount, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, userns=userns)
        namespace.enter(namespace.make(scratch), operations, pins)
        root = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        namespaces.setns(userns, namespaces.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        return _copied(root, target, os.open(".", _DIRECTORY, dir_fd=mount))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    except LaunchError as error:
        return error.message


def _copied(root: int, target: str, volume: int) -> str:
    try:
        source = mounts.openat2(root, target.lstrip("/"), _DIRECTORY, mounts.RESOLVE_IN_ROOT)
    except OSError as error:
        # A start makes the directory, or tells what is wrong with it.
        if error.errno in _ABSENT:
            return _NOTHING
        raise
    copy_tree(source, volume)
    return _COPIED
