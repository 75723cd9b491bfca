# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the kernel's list of mounts, without asking a file server that may hang."""

from __future__ import annotations

import errno
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Mapping, Tuple

PATH = "/proc/self/mountinfo"
# File systems that a process or another machine serves.
_SERVED = re.compile(r"(fuse(blk)?(\..*)?|nfs4?|cifs|smb3|9p|ceph|afs|ncpfs|autofs)")


class Mount:
    """One line of the list: ``root`` is the directory of the file system that is mounted."""

    __slots__ = ("number", "parent", "device", "root", "point", "options")

    def __init__(self, line: str) -> None:
        fields = line.split(" ", 6)
        self.number, self.parent, self.device = fields[:3]
        self.root, self.point = unescaped(fields[3]), unescaped(fields[4])
        self.options = frozenset(fields[5].split(","))


def stack(path: str) -> list[tuple[Mount, bool]]:
    """The mounts at a path, topmost last, and whether each shows the very directory below it."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    with open(PATH, encoding="utf-8", errors="surrogateescape") as handle:
        every = {mount.number: mount for mount in map(Mount, handle)}
    return [
        (mount, mount.parent in every and _is_on_itself(mount, every[mount.parent]))
        for mount in every.values()
        if mount.point == real
    ]


def _is_on_itself(mount: Mount, parent: Mount) -> bool:
    inside = os.path.relpath(mount.point, parent.point)
    shown = os.path.normpath(f"{parent.root.rstrip('/')}/{inside}")
    return mount.device == parent.device and mount.root == shown


def points() -> Iterator[Tuple[str, str]]:
    """Yield (mount point, type of file system)."""
    with open(PATH, encoding="utf-8", errors="surrogateescape") as handle:
        for line in handle:
            before, dummy, after = line.partition(" - ")
            yield unescaped(before.split(" ")[4]), after.split(" ")[0]


def unescaped(path: str) -> str:
    """Resolve the octal escapes of a path (proc(5), mountinfo)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def file_systems(path: str) -> dict[str, str]:
    """Types of the file systems at and below a path, by mount point; follows no link."""
    spelled, around, kind_around = os.path.normpath(path), "", ""
    below = {}
    for point, kind in points():
        if point.startswith(f"{spelled.rstrip('/')}/"):
            below[point] = kind
        elif f"{spelled}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(around):
            around, kind_around = point, kind
    return {around: kind_around, **below} if around else below


def seen_by(pid: int | str) -> list[tuple[str, str, list[str]]]:
    """(device number, type, options of the file system) of each mount of a process.

    [] of one that has ended; the kernel says EINVAL of one that is about to.
    """
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
            halves = [line.rstrip("\n").split(" - ", 1) for line in handle]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
            raise
        return []
    rows = [(before.split(" "), after.split(" ")) for before, after in halves]
    return [(before[2], after[0], after[2].split(",")) for before, after in rows]


def device_of(number: int) -> str:
    """The path of the block device with a number (st_dev), as a mount names it; "" for none."""
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open(PATH, encoding="utf-8", errors="surrogateescape") as handle:
        for line in handle:
            before, dummy, after = line.partition(" - ")
            if before.split(" ")[2] == wanted:
                path = unescaped(after.split(" ")[1])
                if os.path.exists(path) and os.stat(path).st_rdev == number:
                    return path
    return ""


class Row:
    """A mount: its id, that of the mount around it, file system, root, mount point, options."""

    __slots__ = ("id", "parent", "device", "root", "point", "options")

    def __init__(self, line: str) -> None:
        number, parent, self.device, root, point, options = line.split(" ", 6)[:6]
        self.id, self.parent = int(number), int(parent)
        self.options = frozenset(options.split(","))
        self.root, self.point = unescaped(root), unescaped(point)


def by_id(pid: int) -> dict[int, Row]:
    """The mounts of a process, {} of one that has ended."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as handle:
            return parsed(handle.read())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
            raise
        return {}


def parsed(text: bytes) -> dict[int, Row]:
    """The mounts of the content of a mountinfo file (proc(5)), by their ids."""
    # A tenant may put what str.splitlines takes for an end of line into a name.
    rows = [Row(line) for line in text.decode("utf-8", "surrogateescape").split("\n") if line]
    return {row.id: row for row in rows}


def mount_id(fdinfo: str) -> int:
    """The mount of a descriptor, from the text of its file in /proc/self/fdinfo (proc(5))."""
    return int(fdinfo.partition("mnt_id:")[2].split(None, 1)[0])


def kinds() -> dict[str, str]:
    """The types of the file systems at all mount points; the topmost of each."""
    return dict(points())


def server_of(path: str, known: Mapping[str, str] | None = None) -> str:
    """The type of the file system at a path if a server serves it, else ""; follows no link.

    ``known`` is what ``kinds`` told, for the next of many paths.
    """
    known = kinds() if known is None else known
    place = os.path.normpath(path)
    while place not in known and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    kind = known.get(place, "")
    return kind if _SERVED.fullmatch(kind) else ""
