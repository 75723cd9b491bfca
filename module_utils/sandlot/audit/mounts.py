# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The mounts of a sandbox against those that the plan of its root leaves."""

from __future__ import annotations

import json
import os
from typing import Dict

from .. import cgroups, store
from ..build import rootplan
from ..build.mounting import Mounted
from ..build.operations import FLAGS, option_words
from ..kernel import mountinfo, mounts
from ..kernel.confine import CAP_SYS_ADMIN
from .subject import Look, Subject

# The kernel may refuse them, which is a fact and no fault: cgroups_shown.
_OPTIONAL = "/sys/fs/cgroup"


def mount_points(subject: Subject) -> Look:
    """Each mount of the plan is there with its flags, and no other one is."""
    site, launch = subject.site, subject.launch
    plan = rootplan.plan(launch, cgroups.shown(subject.cgroups.layout), site.lxcfs)
    expected: Dict[str, int] = {}
    for operation in plan:
        for path, flags in operation.points().items():
            expected[path] = expected.get(path, 0) | flags
    table = _table(subject.init.pid)
    look = Look(f"{len(table)} mounts")
    known = set()
    for path, flags in expected.items():
        point = path if path in table else _behind_links(subject.init.pid, path)
        if point in table:
            known.add(point)
            present = table[point]
            look.expect(f"mount {path}", _words(flags), _words(flags & present))
        elif not f"{path}/".startswith(f"{_OPTIONAL}/"):
            look.expect("mount", path, "missing")
    known.add(_of_commands(subject))
    # A path of the host brings the mounts below it.
    tops = tuple(f"{each.entry['target']}/" for each in plan if isinstance(each, Mounted))
    if not launch["capabilities"] >> CAP_SYS_ADMIN & 1:
        for point in sorted(table.keys() - known):
            if not point.startswith(tops):
                look.expect("mount", "none", point)
    return look


def _of_commands(subject: Subject) -> str:
    """The mount point of the host's Python while commands use it, else ""."""
    noted = store.read_bytes(subject.site.sandbox(subject.record.name).python)
    row = mountinfo.by_id(subject.init.pid).get(json.loads(noted)["mount"]) if noted else None
    return row.point if row else ""


def _table(pid: int) -> Dict[str, int]:
    """The flags of the topmost mount at each mount point of a process."""
    with open(f"/proc/{pid}/mountinfo", "rb") as handle:
        rows = mountinfo.parsed(handle.read()).values()
    return {
        row.point: sum(flag for word, flag in FLAGS.items() if word in row.options) for row in rows
    }


def _behind_links(pid: int, path: str) -> str:
    """The mount point that a path of the root leads to, "" for one that leads to no other."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = mounts.openat2(root, path, os.O_PATH, mounts.RESOLVE_IN_ROOT)
    except OSError:
        return ""
    finally:
        os.close(root)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as handle:
            number = mountinfo.mount_id(handle.read())
    finally:
        os.close(fd)
    row = mountinfo.by_id(pid).get(number)
    return "" if row is None or f"{path}/".startswith(f"{row.point.rstrip('/')}/") else row.point


def _words(flags: int) -> str:
    return option_words(flags) or "no flags"
