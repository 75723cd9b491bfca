# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandbox's view of files, made inside its user, pid and net namespaces.

Runs in a disposable process. Everything is reached from the descriptor of the new root: no path is
resolved by string, and a symlink where a mount point should be is refused.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..kernel import mounts
from ..kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
DEV_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
SYSFS = _SAFE | MOUNT_ATTR_RDONLY
_STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
# The kernel has 4096 ptys for all (kernel.pty.max); a few sandboxes must not exhaust them.
DEVPTS = {"newinstance": "", "ptmxmode": "0666", "mode": "0620", "gid": "5", "max": "256"}
TMPFS = {"size": "256m", "mode": "1777", "nr_inodes": "100k"}
_TMPFS_FLAGS = {
    "noexec": MOUNT_ATTR_NOEXEC,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "ro": MOUNT_ATTR_RDONLY,
}


def pivot() -> int:
    """Make the working directory the root; the old root stays stacked on it until ``detach``.

    Mounts inherited from a more privileged namespace are locked (mount_namespaces(7)), so the new
    root has to be a fresh mount of itself before pivot_root(2) accepts it.
    """
    root = mounts.clone_tree(".", recursive=True)
    mounts.attach(root, ".")
    os.fchdir(root)
    mounts.pivot_root(".", ".")
    return root


def detach_old_root(root: int) -> None:
    os.fchdir(root)
    mounts.umount(".", mounts.MNT_DETACH)


def populate(
    root: int, launch: Mapping[str, Any], devices: Mapping[str, int], sysfs: int | None
) -> int:
    """Mount everything below the root; returns a descriptor of /dev/pts.

    ``sysfs`` is a detached mount of it, None when it can be made here.
    """
    _mount_at(root, "proc", mounts.new_mount("proc", {}, _SAFE))
    _mount_at(root, "sys", mounts.new_mount("sysfs", {}, SYSFS) if sysfs is None else sysfs)
    pts = _mount_dev(root, devices)
    for path, options in {"/tmp": "", **launch["tmpfs"]}.items():
        _mount_tmpfs(root, path, options)
    for path in launch["readonly"]:
        _make_readonly(root, path)
    for path in launch["masked"]:
        _mask(root, path, devices["null"])
    return pts


def _mount_at(root: int, path: str, mount: int) -> None:
    target = directory(root, path)
    mounts.attach(mount, target_fd=target)
    os.close(target)


def directory(root: int, path: str, *, follow: bool = False) -> int:
    """A descriptor of a directory below the root, made when missing.

    ``follow`` resolves symlinks inside the root; otherwise one is refused.
    """
    resolve = RESOLVE_IN_ROOT if follow else _STRICT
    current = os.dup(root)
    walked = ""
    for part in [p for p in path.split("/") if p]:
        walked = f"{walked}/{part}".lstrip("/")
        os.close(current)
        current = _enter(root, walked, resolve)
    return current


def _enter(root: int, path: str, resolve: int) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return mounts.openat2(root, path, flags, resolve)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise LaunchError(
                f"/{path} in the image is a symlink or no directory",
                hint="remove it from the image: something has to be mounted there",
            ) from error
        if error.errno != errno.ENOENT:
            raise
    parent, _, leaf = path.rpartition("/")
    holder = mounts.openat2(root, parent or ".", flags, resolve)
    try:
        os.mkdir(leaf, 0o755, dir_fd=holder)
    finally:
        os.close(holder)
    return mounts.openat2(root, path, flags, resolve)


def _mount_dev(root: int, devices: Mapping[str, int]) -> int:
    flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    dev = mounts.new_mount("tmpfs", {"mode": "755", "size": "64k", "nr_inodes": "64"}, flags)
    _mount_at(root, "dev", dev)
    for name, device in devices.items():
        node = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=dev)
        mounts.attach(device, target_fd=node)
        os.close(node)
    for name, target in DEV_LINKS.items():
        os.symlink(target, name, dir_fd=dev)
    pts = mounts.new_mount("devpts", DEVPTS, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    shm = mounts.new_mount("tmpfs", {"mode": "1777", "size": "64m"}, _SAFE)
    mqueue = mounts.new_mount("mqueue", {}, _SAFE)
    for name, mount in {"pts": pts, "shm": shm, "mqueue": mqueue}.items():
        _mount_at(root, f"dev/{name}", mount)
    os.close(dev)
    return pts


def _mount_tmpfs(root: int, path: str, text: str) -> None:
    options, flags = dict(TMPFS), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    for word in [w for w in text.split(",") if w]:
        key, _, value = word.partition("=")
        if key in _TMPFS_FLAGS:
            flags |= _TMPFS_FLAGS[key]
        elif key == "exec":
            flags &= ~MOUNT_ATTR_NOEXEC
        elif key != "rw":
            options[key] = value
    _mount_at(root, path, mounts.new_mount("tmpfs", options, flags))


def _make_readonly(root: int, path: str) -> None:
    target = _existing(root, path)
    if target is None:
        return
    mount = mounts.clone_tree("", dir_fd=target, recursive=True)
    mounts.set_attributes(mount, _SAFE | MOUNT_ATTR_RDONLY)
    mounts.attach(mount, target_fd=target)
    os.close(mount)
    os.close(target)


def _mask(root: int, path: str, null: int) -> None:
    """Cover a directory with an empty tmpfs, a file with the null device held before."""
    target = _existing(root, path)
    if target is None:
        return
    if stat.S_ISDIR(os.fstat(target).st_mode):
        options = {"size": "4k", "nr_inodes": "1", "mode": "555"}
        mount = mounts.new_mount("tmpfs", options, _SAFE | MOUNT_ATTR_RDONLY)
    else:
        mount = mounts.clone_tree("", dir_fd=null)
    mounts.attach(mount, target_fd=target)
    os.close(mount)
    os.close(target)


def _existing(root: int, path: str) -> int | None:
    """The target of a mask; None when this kernel does not have it."""
    try:
        return mounts.openat2(root, path.lstrip("/"), os.O_PATH, _STRICT)
    except FileNotFoundError:
        return None


def bind_files(root: int, files: Mapping[str, int]) -> None:
    """Attach host-made files (detached mounts) over files of the sandbox's own layer."""
    for path, mount in files.items():
        parent, _, leaf = path.rpartition("/")
        holder = directory(root, parent)
        _regular_file(holder, leaf, path)
        target = mounts.openat2(holder, leaf, os.O_PATH, _STRICT)
        mounts.attach(mount, target_fd=target)
        os.close(target)
        os.close(holder)


def _regular_file(holder: int, leaf: str, path: str) -> None:
    """Replace a symlink, FIFO or device by an empty file: the image must not choose the target."""
    try:
        mode = os.stat(leaf, dir_fd=holder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        mode = 0
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise LaunchError(f"{path} in the image is a directory", hint="remove it from the image")
    if mode:
        os.unlink(leaf, dir_fd=holder)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(leaf, flags, 0o644, dir_fd=holder))
