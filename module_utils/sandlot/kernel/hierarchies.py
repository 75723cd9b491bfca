# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The hierarchies of cgroups whose files a sandbox sees, and their file systems.

A hierarchy is named as in /proc/PID/cgroup: by its controllers in version 1, by "" in version 2.
"""

from __future__ import annotations

import errno
import os

from . import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Sequence, Tuple

PROC = "/proc"
UNIFIED = "unified"
# Controllers that programs read to size themselves; the files of others stay hidden.
READ = frozenset(("blkio", "cpu", "cpuacct", "cpuset", "io", "memory", "pids"))
# The kernel or a security module does not let a user namespace mount them.
_REFUSED = frozenset((errno.EPERM, errno.EACCES, errno.ENODEV, errno.EINVAL, errno.EBUSY))


def of_process(pid: int | str = "self") -> Iterator[Tuple[str, str]]:
    """Yield (hierarchy, path of the process's cgroup in it)."""
    with open(f"{PROC}/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as handle:
        for line in handle:
            dummy, names, path = line.rstrip("\n").split(":", 2)
            yield names, path


def joined(pid: int, directories: Sequence[str]) -> List[str]:
    """The hierarchies in which a process is in these cgroups, and which limit it.

    In a hierarchy that the host has not mounted, the process is somewhere else, even at the root:
    a mount in its cgroup namespace would show all of that.
    """
    tails = {"/" + "/".join(directory.split("/")[-2:]) for directory in directories}
    limiting = {*READ, ""} if any(map(_limits, directories)) else READ
    return [
        names
        for names, path in of_process(pid)
        if any(path.endswith(tail) for tail in tails) and not limiting.isdisjoint(names.split(","))
    ]


def _limits(directory: str) -> bool:
    """Whether a cgroup is one of version 2 with such controllers."""
    try:
        with open(f"{directory}/cgroup.controllers", encoding="ascii") as handle:
            return not READ.isdisjoint(handle.read().split())
    except FileNotFoundError:
        return False


def places(hierarchies: Sequence[str]) -> List[Tuple[str, str]]:
    """(hierarchy, its name below /sys/fs/cgroup): version 2 alone is that directory itself.

    Beside version 1, it is where systemd mounts it.
    """
    alone = not any(hierarchies)
    return [(names, names or ("" if alone else UNIFIED)) for names in hierarchies]


def filesystem(names: str) -> Tuple[str, dict[str, str]]:
    """The type and the options of a hierarchy's file system."""
    return ("cgroup", dict.fromkeys(names.split(","), "")) if names else ("cgroup2", {})


def mounted(hierarchies: Sequence[str], attributes: int) -> List[int]:
    """New detached mounts, which show this process's cgroup namespace; [] if one is refused."""
    made: List[int] = []
    try:
        for names in hierarchies:
            made.append(mounts.new_mount(*filesystem(names), attributes))
    except OSError as error:
        for mount in made:
            os.close(mount)
        if error.errno not in _REFUSED:
            raise
        return []
    return made
