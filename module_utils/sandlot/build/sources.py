# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Opens the sources of mounts on the host, as detached mounts.

A tenant can plant a link in a directory that it shares, also one that belongs to root: where ids
are mapped, its root is root on the disk. So no link is followed, but in / and /var, where only root
of the host makes one and nothing is ever mounted into a sandbox as a whole.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..host_paths import OURS, why_refused
from ..kernel import mounts
from ..kernel.mounts import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from .operations import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

_NO_LINK = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_ROOTS = ("/", "/var")
_MAX_LINKS = 40  # as path_resolution(7)


def opened(entry: Mapping[str, Any], userns: int) -> int:
    """The detached mount of a bind mount or volume of a launch file; it is confined already.

    ``userns`` is a descriptor of the sandbox's user namespace, whose ids it gets where asked for.
    """
    is_volume = entry["type"] == "volume"
    source = _volume(entry) if is_volume else bind_source(entry["path"])
    try:
        # With what is mounted below, as otherwise the files that lie under these mounts show.
        mount = mounts.clone_tree("", dir_fd=source, recursive=not is_volume)
    finally:
        os.close(source)
    try:
        _confine(mount, entry, userns)
    except OSError:
        os.close(mount)
        raise
    return mount


def attributes(entry: Mapping[str, Any]) -> int:
    """The flags of an entry's mount, MOUNT_ATTR_*."""
    flags = FLAGS["nosuid"] | FLAGS["nodev"]
    flags |= FLAGS["ro"] if entry.get("read_only") else 0
    return flags | (FLAGS["noexec"] if entry.get("no_exec") else 0)


def maps_ids(entry: Mapping[str, Any]) -> bool:
    return entry["type"] == "volume" or bool(entry.get("idmap"))


def _confine(mount: int, entry: Mapping[str, Any], userns: int) -> None:
    mapped = userns if maps_ids(entry) else None
    # The copy of a shared mount is one of its peers.
    spread = mounts.MS_SLAVE if entry.get("propagation") else mounts.MS_PRIVATE
    mounts.set_attributes(mount, 0, propagation=spread, recursive=True)
    try:
        mounts.set_attributes(mount, attributes(entry), userns=mapped, recursive=True)
    except OSError as error:
        if mapped is None or error.errno != errno.EINVAL:
            raise
        hint = "move it to one that can, such as ext4, xfs or btrfs"
        problem = f"the file system of {entry['path']}, or of a mount below, can't map ids"
        raise LaunchError(f"{entry['target']}: {problem}", hint=hint) from error


def _volume(entry: Mapping[str, Any]) -> int:
    """A descriptor of a volume's files, or of a directory in them."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    name = entry["source"]
    try:
        top = os.open(entry["path"], flags)
    except FileNotFoundError as error:
        hint = "deploy the sandbox again, which makes it"
        raise LaunchError(f"volume {name} is missing", hint=hint) from error
    subpath = entry.get("subpath", "")
    if not subpath:
        return top
    try:
        return mounts.openat2(top, subpath, flags & ~os.O_NOFOLLOW, _NO_LINK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        problem = "has no such directory" if error.errno == errno.ENOENT else "is no directory"
        hint = "make it in the volume first; links in volumes are not followed"
        raise LaunchError(f"volume {name}: {subpath}: {problem}", hint=hint) from error
    finally:
        os.close(top)


def bind_source(path: str) -> int:
    """A descriptor of a path of the host; LaunchError for what no sandbox may have."""
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _resolved(top, path)
    finally:
        os.close(top)
    place, mode = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_mode
    problem = why_refused(place, OURS)
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        problem = "is a device, which mounts never give access to"
    if problem:
        os.close(fd)
        shown = path if place == path else f"{path}, which is {place},"
        raise LaunchError(f"bind mount of {shown} {problem}", hint="mount something else")
    return fd


def _resolved(top: int, path: str) -> int:
    wanted = path
    for dummy in range(_MAX_LINKS):
        try:
            return mounts.openat2(top, wanted.lstrip("/"), os.O_PATH, _NO_LINK)
        except FileNotFoundError as error:
            hint = "make it first: sandlot makes no directories of the host"
            raise LaunchError(f"bind mount of {path}: it does not exist", hint=hint) from error
        except NotADirectoryError as error:
            hint = "correct the path"
            raise LaunchError(f"bind mount of {path}: not a directory", hint=hint) from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            wanted = _beyond_link(path, wanted)
    raise LaunchError(f"bind mount of {path}: too many links", hint="write where they lead")


def _beyond_link(path: str, wanted: str) -> str:
    """The path with its first link in / or /var replaced by its target."""
    parts = wanted.strip("/").split("/")
    for count in range(min(len(parts), 2)):
        directory = "/" + "/".join(parts[:count])
        place = os.path.join(directory, parts[count])
        if directory in _ROOTS and os.path.islink(place):
            target = os.path.normpath(os.path.join(directory, os.readlink(place)))
            return "/".join([target, *parts[count + 1 :]])
    raise LaunchError(
        f"bind mount of {path}: there is a link on the way",
        hint=f"write where it leads, {os.path.realpath(wanted)}: links are followed in / and /var",
    )
