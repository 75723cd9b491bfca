# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Finds the cgroup hierarchies that the host has mounted: version 2, version 1, or both.

All sandboxes of a host are children of one cgroup directly below each hierarchy's root, named
after ``paths.cgroup``. Below systemd that is a cgroup no unit is named after, so systemd leaves it
alone; and as it hands its controllers on to its children, the kernel refuses to take them away at
the root while sandboxes exist, whatever the units of the host need.

A sandbox joins every hierarchy that has a controller, limited or not, so that all of it is
accounted to it, and the unified one beside version 1 for its ``cgroup.kill``. A named hierarchy of
version 1 (``name=systemd``) is its owner's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..kernel import hierarchies
from ..kernel.files import directories, read_value
from ..kernel.mountinfo import seen_by, unescaped
from ..site import JOB, Site

MOUNTINFO = "/proc/self/mountinfo"

_VERSION_1 = frozenset(
    """
    blkio cpu cpuacct cpuset devices freezer hugetlb memory misc net_cls net_prio perf_event pids
    rdma
    """.split()
)


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy and its controllers."""

    directory: str
    controllers: frozenset[str]
    unified: bool = False

    def parent(self, site: Site) -> str:
        return f"{self.directory}/{site.cgroup}"

    def sandbox(self, site: Site, name: str) -> str:
        return f"{self.directory}/{site.cgroup}/{name}"


@dataclass(frozen=True)
class Layout:
    hierarchies: tuple[Hierarchy, ...]

    def having(self, controller: str) -> Hierarchy | None:
        """The hierarchy that a controller is attached to."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy
        return None


def detect(mountinfo: str = MOUNTINFO) -> Layout:
    mounted: dict[frozenset[str] | bool, Hierarchy] = {}
    # Each sandbox has several mounts on the host, for its pins.
    with open(mountinfo, "rb") as handle:
        for line in handle:
            hierarchy = _hierarchy(os.fsdecode(line)) if b" - cgroup" in line else None
            # The same hierarchy may be mounted several times, with the same content.
            if hierarchy:
                mounted.setdefault(hierarchy.unified or hierarchy.controllers, hierarchy)
    return Layout(tuple(mounted.values()))


def _hierarchy(line: str) -> Hierarchy | None:
    before, dummy, after = line.rstrip("\n").partition(" - ")
    directory = unescaped(before.split(" ")[4])
    kind, dummy, options = after.split(" ")[:3]
    if kind == "cgroup2":
        try:
            with open(f"{directory}/cgroup.controllers", encoding="ascii") as handle:
                return Hierarchy(directory, frozenset(handle.read().split()), unified=True)
        except FileNotFoundError:
            return None  # covered by another mount
    controllers = _VERSION_1.intersection(options.split(","))
    return Hierarchy(directory, controllers) if kind == "cgroup" and controllers else None


def shown(layout: Layout) -> list[str]:
    """The hierarchies whose files a sandbox sees, named as in kernel.hierarchies."""
    limiting = [item for item in layout.hierarchies if item.controllers & hierarchies.READ]
    known = {"" if item.unified else name for item in limiting for name in item.controllers}
    return [names for names, dummy in hierarchies.of_process() if known & {*names.split(",")}]


def shown_inside(site: Site, name: str, pid: int, layout: Layout) -> list[str]:
    """The controllers whose files a process of a sandbox has mounted; [] when it is gone."""
    unified = [item.sandbox(site, name) for item in layout.hierarchies if item.unified]
    controllers: set[str] = set()
    for dummy, kind, options in seen_by(pid):
        if kind == "cgroup":
            controllers.update(options)
        elif kind == "cgroup2":
            texts = [read_value(f"{path}/cgroup.controllers") for path in unified]
            controllers.update(*((text or "").split() for text in texts))
    return sorted(controllers & hierarchies.READ)


def names(site: Site, layout: Layout | None = None) -> set[str]:
    """Sandboxes that have a cgroup in any hierarchy."""
    sandboxes: set[str] = set()
    for hierarchy in (layout or detect()).hierarchies:
        sandboxes.update(directories(hierarchy.parent(site)))
    return {name for name in sandboxes if not name.startswith(JOB)}
