# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Shows a read-only tree of the host in the /dev of a running sandbox, for some time.

The tree is the lower layer of an overlay of the sandbox's own: a file of the host would be one
inode for all sandboxes, by whose locks they could signal to each other. A child makes it as host
root, has its flags locked, and joins the sandbox's mount namespace as root of its user namespace,
as for other live mounts.
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import ExitStack, suppress
from typing import Callable, Dict, NamedTuple

from ..errors import LaunchError
from ..kernel import fork, mountinfo, mounts, namespaces
from ..sandbox.runtime import Running
from ..site import SandboxPaths
from . import become, namespace, rootfs
from .operations import LAYER, LOWER, MERGED, TREE
from .stacking import Overlay

PATIENCE_SECONDS = 60.0
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Shown(NamedTuple):
    """A tree of the host and the name that it has in /dev."""

    directory: str
    leaf: str
    maps_ids: bool


def is_mounted(init: Running, number: int, leaf: str) -> bool:
    """Whether the sandbox has the mount with this id of the kernel at its place."""
    row = mountinfo.by_id(init.pid).get(number)
    return row is not None and row.point == f"/dev/{leaf}"


def attach(
    sandbox: SandboxPaths, init: Running, tree: Shown, scratch: str, note: Callable[[int], None]
) -> None:
    """Mount the tree; ``note`` gets the kernel's id of the mount before anybody can see it.

    ``scratch`` is a directory for the build namespace. A sandbox that has ended gets nothing.
    """
    with ExitStack() as stack:
        pins = _pinned(stack, sandbox, init)
        if pins is None:
            return
        space, user = pins

        def work() -> None:
            mount = _prepared(tree, user, scratch)
            note(_id(mount))
            namespaces.setns(space, namespaces.CLONE_NEWNS)
            dev = _dev()
            with suppress(FileExistsError):
                os.mkdir(tree.leaf, 0o755, dir_fd=dev)
            flags = _DIRECTORY | os.O_NOFOLLOW
            mounts.attach(mount, target_fd=mounts.openat2(dev, tree.leaf, flags, rootfs.STRICT))

        _run(sandbox, work, f"/dev/{tree.leaf} can't be mounted")


def detach(sandbox: SandboxPaths, init: Running, leaf: str) -> bool:
    """Unmount a tree; False while a process uses it."""
    with ExitStack() as stack:
        pins = _pinned(stack, sandbox, init)
        if pins is None:
            return True
        space, user = pins

        def work() -> None:
            become.root(user)
            namespaces.setns(space, namespaces.CLONE_NEWNS)
            os.fchdir(_dev())
            mounts.umount(leaf, mounts.UMOUNT_NOFOLLOW)
            # It is not empty if the sandbox has made it.
            with suppress(OSError):
                os.rmdir(leaf)

        return _run(sandbox, work, f"/dev/{leaf} can't be unmounted", busy=False)


def _pinned(stack: ExitStack, sandbox: SandboxPaths, init: Running) -> tuple[int, int] | None:
    """Descriptors of the mount and the user namespace of init; None when it has ended."""
    fds = []
    try:
        for path in (f"/proc/{init.pid}/ns/mnt", sandbox.pin("user")):
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
    except (FileNotFoundError, ProcessLookupError):
        return None
    # As long as init lives after that, they are its own.
    if namespaces.start_time(init.pid) != init.start_time:
        return None
    if not namespaces.is_owned_by(*fds):
        problem = f"{sandbox.name}: its mount namespace is not its own"
        raise LaunchError(problem, hint=_restart(sandbox))
    return fds[0], fds[1]


def _prepared(tree: Shown, user: int, scratch: str) -> int:
    """The detached mount, with locked flags; the process is then root of the sandbox."""
    lower = mounts.clone_tree(tree.directory)
    mounts.set_attributes(lower, TREE, userns=user if tree.maps_ids else None)
    namespaces.setns(namespace.make(scratch), namespaces.CLONE_NEWNS)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.attach(lower, f"{LOWER}0")
    # Overlayfs takes one layer for a mistake; the second one is an empty directory.
    Overlay(MERGED, [f"{LOWER}0", LAYER]).stack({})
    become.root(user)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    return mounts.clone_tree(MERGED)


def _dev() -> int:
    """/dev of the mount namespace that the process has just joined, whose root it is in."""
    root = os.open(".", _DIRECTORY)
    return mounts.openat2(root, "dev", _DIRECTORY, rootfs.STRICT)


def _id(mount: int) -> int:
    with open(f"/proc/self/fdinfo/{mount}", encoding="ascii") as info:
        return mountinfo.mount_id(info.read())


def _run(sandbox: SandboxPaths, work: Callable[[], None], what: str, *, busy: bool = True) -> bool:
    """Run ``work`` in a child; False if the mount is busy, when ``busy`` is no error."""
    end = time.monotonic() + PATIENCE_SECONDS

    def watch() -> None:
        if time.monotonic() > end:
            raise LaunchError(f"{sandbox.name}: {what}: it takes too long")

    report, status = fork.call(lambda dummy: _outcome(work), watch)
    if status or not report:
        raise LaunchError(f"{sandbox.name}: {what}: its process ended with status {status}")
    answer: Dict[str, object] = json.loads(report)
    if answer.get("errno") == errno.EBUSY and not busy:
        return False
    if answer:
        hint = f"remove what the sandbox has put into its /dev, or {_restart(sandbox)}"
        raise LaunchError(f"{sandbox.name}: {what}: {answer['text']}", hint=hint)
    return True


def _outcome(work: Callable[[], None]) -> bytes:
    try:
        work()
    except OSError as error:
        return json.dumps({"errno": error.errno, "text": error.strerror}).encode()
    return b"{}"


def _restart(sandbox: SandboxPaths) -> str:
    return f"restart it: sandlot restart {sandbox.name}"
