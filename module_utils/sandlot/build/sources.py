# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Opens the sources of mounts on the host, as detached mounts.

A tenant can plant a link in a directory that it shares, also one that belongs to root: where ids
are mapped, its root is root on the disk. So links are followed only where no sandbox writes as root
of the host: in directories that are never mounted as a whole, such as / and /var, and in those of
the host's programs and configuration. Others in which users of the host write are left out as well.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..host_paths import KERNEL_FILE_SYSTEMS, OURS, is_system, why_refused
from ..kernel import mountinfo, mounts
from ..kernel.mounts import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from ..sandbox import mount_state
from ..site import VOLUME_IMAGE
from .operations import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Sequence

_NO_LINK = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as path_resolution(7)


def opened(entry: Mapping[str, Any], userns: int) -> int:
    """The detached mount of an entry of a launch file with a source; it is confined already.

    ``userns`` is a descriptor of the sandbox's user namespace, whose ids it gets where asked for.
    """
    of_host = entry["type"] == "bind"
    try:
        source = _source(entry)
    except LaunchError as error:
        error.name(_what(entry))
        raise
    try:
        # With what is mounted below, as otherwise the files that lie under these mounts show.
        mount = mounts.clone_tree("", dir_fd=source, recursive=of_host)
    finally:
        os.close(source)
    try:
        _confine(mount, entry, userns)
    except OSError:
        os.close(mount)
        raise
    return mount


def _source(entry: Mapping[str, Any]) -> int:
    if entry["type"] in mount_state.OF_RECORD:
        return _kept(entry)
    return _volume(entry) if entry["type"] == "volume" else _bind(entry)


def _what(entry: Mapping[str, Any]) -> str:
    if entry["type"] in mount_state.OF_RECORD:
        return f"{entry['type']} at {entry['target']}"
    return (
        f"volume {entry['source']}"
        if entry["type"] == "volume"
        else f"bind mount of {entry['path']}"
    )


def _kept(entry: Mapping[str, Any]) -> int:
    """A descriptor of content that sandlot keeps; no sandbox writes to its directories."""
    try:
        return os.open(entry["path"], _NODE)
    except FileNotFoundError as error:
        raise LaunchError("has lost its content", hint="deploy the sandbox again") from error


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
    try:
        top = os.open(entry["path"], flags)
    except FileNotFoundError as error:
        hint = "deploy the sandbox again, which makes it"
        raise LaunchError("is missing", hint=hint) from error
    if _is_hidden(top, entry["path"]):
        os.close(top)
        hint = "sandlot restart mounts it, and so does a deploy"
        raise LaunchError("has a file system that is not mounted, so it looks empty", hint=hint)
    subpath = entry.get("subpath", "")
    if not subpath:
        return top
    try:
        return mounts.openat2(top, subpath, flags & ~os.O_NOFOLLOW, _NO_LINK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        missing = error.errno == errno.ENOENT
        problem = f"has no directory {subpath}" if missing else f"{subpath} is no directory"
        hint = "make it in the volume first; links in volumes are not followed"
        raise LaunchError(problem, hint=hint) from error
    finally:
        os.close(top)


def _is_hidden(top: int, path: str) -> bool:
    """Whether the files are in a file system that somebody has unmounted since the last run."""
    above = os.path.dirname(path)
    if not os.path.exists(f"{above}/{VOLUME_IMAGE}"):
        return False
    return os.fstat(top).st_dev == os.stat(above).st_dev


def _bind(entry: Mapping[str, Any]) -> int:
    as_root = maps_ids(entry) and not entry.get("read_only")
    return bind_source(entry["path"], as_root=as_root)


def bind_source(path: str, ours: Sequence[str] = OURS, *, as_root: bool = False) -> int:
    """A descriptor of a path of the host; LaunchError for what no sandbox may have.

    ``ours`` are directories of sandlot. With ``as_root``, the sandbox writes as root of the host.
    """
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _resolved(top, path)
    finally:
        os.close(top)
    place, mode = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_mode
    problem = why_refused(place, ours, as_root=as_root)
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        problem = "is a device: the option devices gives access to one"
    problem = problem or _kernels(place)
    if problem:
        os.close(fd)
        leads = "" if place == path else f"leads to {place}, which "
        raise LaunchError(f"{leads}{problem}", hint="mount something else")
    return fd


def _kernels(place: str) -> str:
    """The reason to refuse a place with a file system of the kernel at or below it; "" if none."""
    for point, kind in mountinfo.file_systems(place).items():
        if kind in KERNEL_FILE_SYSTEMS:
            return f"has the kernel's {kind} at {point}"
    return ""


def _resolved(top: int, path: str) -> int:
    wanted = path
    for dummy in range(_MAX_LINKS):
        try:
            return mounts.openat2(top, wanted.lstrip("/"), os.O_PATH, _NO_LINK)
        except FileNotFoundError as error:
            hint = "make it first: sandlot makes no directories of the host"
            raise LaunchError("does not exist", hint=hint) from error
        except NotADirectoryError as error:
            problem = "leads through something that is no directory"
            raise LaunchError(problem, hint="correct the path") from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            wanted = _beyond_link(wanted)
    raise LaunchError("has too many links", hint="write where they lead")


def _beyond_link(wanted: str) -> str:
    """The path with its first link replaced by its target; LaunchError for one that may be planted.

    Unchanged if the link is gone meanwhile.
    """
    parts = wanted.strip("/").split("/")
    current = os.open("/", _NODE)
    try:
        for count, part in enumerate(parts, 1):
            node = os.open(part, _NODE, dir_fd=current)
            if stat.S_ISLNK(os.fstat(node).st_mode):
                target = _target(current, node)
                return "/".join([target, *parts[count:]])
            os.close(current)
            current = node
    except (FileNotFoundError, NotADirectoryError):
        pass  # the next look tells
    finally:
        os.close(current)
    return wanted


def _target(directory: int, link: int) -> str:
    place, status = os.readlink(f"/proc/self/fd/{directory}"), os.fstat(directory)
    try:
        target = os.readlink("", dir_fd=link)
    finally:
        os.close(link)
    of_host = bool(why_refused(place)) or is_system(place)
    if not of_host or status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        hint = "write where it leads, as readlink -f shows it"
        raise LaunchError("has a link on the way, which a sandbox may have made", hint=hint)
    return os.path.normpath(os.path.join(place, target))
