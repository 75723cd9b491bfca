# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What is mounted where, by the kernel's own list: no file server that may hang is asked."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Tuple

_MOUNTINFO = "/proc/self/mountinfo"
# Whose files are a process's or another machine's.
_SERVED = re.compile(r"(fuse(blk)?(\..*)?|nfs4?|cifs|smb3|9p|ceph|afs|ncpfs|autofs)")


def _mounts() -> Iterator[Tuple[str, str]]:
    """Mount point and type of file system."""
    with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as handle:
        for line in handle:
            before, _, after = line.partition(" - ")
            yield _unescaped(before.split(" ")[4]), after.split(" ")[0]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def within(path: str) -> list[str]:
    """Mount points at or below a path; links in its parents are followed."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return [point for point, _ in _mounts() if point == real or point.startswith(f"{real}/")]


def server_of(path: str) -> str:
    """Type of the file system at a path, as it is spelled, if a server answers for it; else ""."""
    spelled = os.path.normpath(path)
    longest, found = "", ""
    for point, kind in _mounts():
        inside = spelled == point or spelled.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(longest):
            longest, found = point, kind
    return found if _SERVED.fullmatch(found) else ""
