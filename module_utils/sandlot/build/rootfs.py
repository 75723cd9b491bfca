# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths below a sandbox's root, reached from its descriptor inside the sandbox's namespaces.

No path is resolved by string. Links in the image and in the layer are followed inside the root, but
for /proc, /sys and /dev, which have to be directories.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..kernel import mountinfo, mounts
from ..kernel.mounts import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Sequence

STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_MAX_LINKS = 40  # as path_resolution(7)
_INFO_SIZE = 4096


def pivot() -> int:
    """Make the working directory the root; the old root is mounted over it until it is detached.

    Mounts of a more privileged namespace are locked (mount_namespaces(7)), so the new root is
    bind-mounted on itself first: pivot_root(2) accepts that.
    """
    root = mounts.clone_tree(".", recursive=True)
    mounts.attach(root, ".")
    os.fchdir(root)
    mounts.pivot_root(".", ".")
    return root


def detach_old_root(root: int) -> None:
    os.fchdir(root)
    mounts.umount(".", mounts.MNT_DETACH)


def attach(
    root: int, path: str, mount: int, *, follow: bool = False, own: Optional[int] = None
) -> None:
    """``own`` is the directory of our descriptors, where the root's /proc does not show us."""
    target = directory(root, path, follow=follow)
    if follow:
        _refuse_kernel_tree(target, path, own)
    mounts.attach(mount, target_fd=target)
    os.close(target)


def _refuse_kernel_tree(target: int, path: str, own: Optional[int] = None) -> None:
    """Refuse a link of the image from elsewhere to the root or to a tree that is not the image's.

    No link is followed on the way to /proc, so it is the kernel's.
    """
    name = f"/proc/self/fd/{target}" if own is None else str(target)
    place = os.readlink(name, dir_fd=own)
    top = place.split("/")[1]
    if top in ("", "proc", "sys", "dev") and path.lstrip("/").split("/")[0] != top:
        raise LaunchError(
            f"{path} in the image leads to {place}",
            hint="make it a directory in the image: something has to be mounted there",
        )


def directory(root: int, path: str, *, follow: bool = False, links: int = _MAX_LINKS) -> int:
    """A descriptor of a directory below the root; missing directories are made.

    With ``follow``, symlinks are resolved inside the root; otherwise they are refused.
    """
    parts = [part for part in path.split("/") if part]
    try:
        return _opened(root, "/".join(parts), follow=follow)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise
    # Something is missing or wrong on the way.
    current = os.dup(root)
    walked = ""
    for part in parts:
        walked = f"{walked}/{part}".lstrip("/")
        os.close(current)
        current = _enter(root, walked, follow=follow, links=links)
    return current


def _opened(root: int, path: str, *, follow: bool) -> int:
    resolve = RESOLVE_IN_ROOT if follow else STRICT
    return mounts.openat2(root, path or ".", os.O_PATH | os.O_DIRECTORY, resolve)


def _enter(root: int, path: str, *, follow: bool, links: int) -> int:
    try:
        return _opened(root, path, follow=follow)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _no_directory(path, follow=follow) from error
        if error.errno != errno.ENOENT:
            raise
    parent, dummy, leaf = path.rpartition("/")
    holder = _opened(root, parent, follow=follow)
    try:
        os.mkdir(leaf, 0o755, dir_fd=holder)
    except FileExistsError as error:
        # A link to a directory that does not exist.
        if not links or not follow:
            raise _no_directory(path, follow=follow) from error
        target = os.readlink(leaf, dir_fd=holder)
        to = target if target.startswith("/") else f"{parent}/{target}"
        return directory(root, to, follow=True, links=links - 1)
    finally:
        os.close(holder)
    return _opened(root, path, follow=follow)


def _no_directory(path: str, *, follow: bool) -> LaunchError:
    problem = "leads to no directory" if follow else "is a symlink or no directory"
    return LaunchError(
        f"/{path} in the image {problem}",
        hint="name another path, or remove it from the image: it has to be a directory",
    )


def files_of(root: str, path: str) -> int | None:
    """A descriptor of a directory below ``root`` that has entries; None when there is no such."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    top = os.open(root, flags)
    try:
        files = mounts.openat2(top, path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY, RESOLVE_IN_ROOT)
    except OSError as error:
        # Attaching tells what is wrong with it.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    finally:
        os.close(top)
    if os.listdir(files):
        return files
    os.close(files)
    return None


def existing(root: int, path: str) -> int | None:
    """A descriptor of a path of proc or sysfs; None when this kernel does not have it."""
    try:
        return mounts.openat2(root, path.lstrip("/"), os.O_PATH, STRICT)
    except FileNotFoundError:
        return None


def attach_file(root: int, path: str, mount: int) -> None:
    """Attach a detached mount of a file over a file of the sandbox's layer."""
    parent, dummy, leaf = path.rpartition("/")
    holder = directory(root, parent, follow=True)
    _refuse_kernel_tree(holder, parent)
    _regular_file(holder, leaf, path)
    target = mounts.openat2(holder, leaf, os.O_PATH, STRICT)
    mounts.attach(mount, target_fd=target)
    os.close(target)
    os.close(holder)


def attach_to_file(
    root: int,
    path: str,
    mount: int,
    *,
    follow: bool,
    own: Optional[int] = None,
    made: Optional[Callable[[int], None]] = None,
) -> None:
    """Attach a detached mount of a file over a file, which is made if it is missing.

    With ``follow``, links are resolved inside the root; otherwise they are refused.
    """
    target = file_target(root, path, follow=follow, made=made)
    _refuse_kernel_tree(target, path, own)
    mounts.attach(mount, target_fd=target)
    os.close(target)


def file_target(
    root: int, path: str, *, follow: bool, made: Optional[Callable[[int], None]] = None
) -> int:
    """A descriptor of the file at a path; a missing one is made, and ``made`` is called with it."""
    parent, dummy, leaf = path.rpartition("/")
    holder = directory(root, parent, follow=follow)
    resolve = RESOLVE_IN_ROOT if follow else STRICT
    try:
        return mounts.openat2(root, path.lstrip("/"), os.O_PATH, resolve)
    except FileNotFoundError:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            fd = os.open(leaf, flags, 0o644, dir_fd=holder)
        except FileExistsError as error:
            raise LaunchError(
                f"{path} in the image is a link that leads nowhere",
                hint="mount where it leads, or remove it from the image",
            ) from error
        try:
            if made is not None:
                made(fd)
        finally:
            os.close(fd)
        return mounts.openat2(holder, leaf, os.O_PATH, STRICT)
    finally:
        os.close(holder)


def mount_ids(root: int, targets: Sequence[str]) -> List[int]:
    """The kernel's ids of the mounts at these paths, of which nobody inside knows yet."""
    ids = []
    for target in targets:
        fd = mounts.openat2(root, target.lstrip("/"), os.O_PATH, RESOLVE_IN_ROOT)
        info = os.open(f"proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
        ids.append(mountinfo.mount_id(os.read(info, _INFO_SIZE).decode()))
        os.close(info)
        os.close(fd)
    return ids


def _regular_file(holder: int, leaf: str, path: str) -> None:
    """Replace a symlink, FIFO or device with an empty file: no image chooses the target."""
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
