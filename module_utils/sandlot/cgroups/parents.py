# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes and removes the parent cgroup of all sandboxes, in each hierarchy.

Version 2 hands a controller down one level at a time. Those that we had to turn on at the root
are recorded, before they are, and turned off again with the last sandbox, unless the host
has begun to rely on them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import AbstractSet, Iterable, Mapping

from .. import store
from ..errors import ForeignError, HostError
from ..kernel import cpulist, files
from ..plan import Operation
from ..site import Site
from .knobs import VERSION_2, Host
from .layout import Hierarchy, Layout
from .state import CgroupState

_CONTROLLERS = frozenset(knob.controller for knob in VERSION_2)

_ATTEMPTS = 5

# Files in a new cgroup, beside those of knobs.
_FRESH: Mapping[str, Mapping[str, str]] = {
    "cpuset": {"cpuset.mems": ""},
    "memory": {"memory.high": "max", "memory.min": "0"},
}


def ensure(site: Site, layout: Layout, host: Host) -> None:
    for hierarchy in layout.hierarchies:
        parent = hierarchy.parent(site)
        with contextlib.suppress(FileExistsError):
            os.mkdir(parent, 0o755)
        if hierarchy.unified:
            _hand_down(site, hierarchy)
        elif "cpuset" in hierarchy.controllers:
            _widen(f"{parent}/cpuset.cpus", cpulist.render(host.cpus))
            _widen(f"{parent}/cpuset.mems", cpulist.render(host.mems))


def protect(site: Site, layout: Layout) -> None:
    """Protect the sum of all sandboxes' memory in the parent, which version 2 requires."""
    hierarchy = layout.having("memory")
    if hierarchy is None or not hierarchy.unified:
        return
    parent = hierarchy.parent(site)
    names = files.directories(parent)
    sizes = [files.read_value(f"{parent}/{name}/memory.low") for name in names]
    _widen(f"{parent}/memory.low", str(sum(int(size or 0) for size in sizes)))


def _widen(path: str, value: str) -> None:
    if files.read_value(path) != value:
        files.write_value(path, value)


def _hand_down(site: Site, hierarchy: Hierarchy) -> None:
    """Enable our controllers at the root and in the parent.

    A systemd that starts or stops a unit takes from the root what none of its units uses, until a
    cgroup below has it (unit_realize_cgroup_now).
    """
    ours = _CONTROLLERS & hierarchy.controllers
    parent = hierarchy.parent(site)
    for attempts in reversed(range(_ATTEMPTS)):
        _enable_at_root(site, hierarchy, ours)
        try:
            _enable(parent, ours - _enabled(parent))
            return
        except HostError as error:
            taken = isinstance(error.__cause__, FileNotFoundError)
            if not taken or not attempts:
                raise


def _enable_at_root(site: Site, hierarchy: Hierarchy, ours: AbstractSet[str]) -> None:
    missing = ours - _enabled(hierarchy.directory)
    if missing:
        enabled = sorted(_recorded(site) | missing)
        os.makedirs(site.state, mode=0o700, exist_ok=True)
        store.write(_record_path(site), {"boot_id": store.boot_id(), "enabled": enabled})
        _enable(hierarchy.directory, missing)


def _enabled(directory: str) -> set[str]:
    return set((files.read_value(f"{directory}/cgroup.subtree_control") or "").split())


def _enable(directory: str, controllers: Iterable[str]) -> None:
    for controller in sorted(controllers):
        try:
            files.write_value(f"{directory}/cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            raise HostError(
                f"the {controller} controller can't be enabled in {directory}: {error.strerror}",
                hint="end realtime processes (cpu), or move processes out of that cgroup",
            ) from error


def _record_path(site: Site) -> str:
    return f"{site.state}/cgroups.json"


def _recorded(site: Site) -> set[str]:
    """The controllers that we turned on at the root since this boot."""
    data = store.read(_record_path(site)) or {}
    return set(data["enabled"]) if data.get("boot_id") == store.boot_id() else set()


def teardown_operations(site: Site, state: CgroupState) -> list[Operation]:
    """Operations that remove our cgroup from each hierarchy, after those of all sandboxes."""
    if not state.parents and not os.path.exists(_record_path(site)):
        return []
    summary = f"remove {site.cgroup} from each hierarchy"
    return [Operation("cgroups", summary, lambda: _teardown(site, state.layout))]


def _teardown(site: Site, layout: Layout) -> None:
    for hierarchy in layout.hierarchies:
        _remove(hierarchy.parent(site))
        if hierarchy.unified:
            _take_back(hierarchy.directory, _recorded(site))
    store.remove(_record_path(site))


def _remove(parent: str) -> None:
    try:
        os.rmdir(parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        inside = ", ".join(files.directories(parent)) or "processes"
        raise ForeignError(
            f"{parent} still contains {inside}",
            hint="remove these sandboxes first; move away what is not a sandbox",
        ) from error


def _take_back(root: str, controllers: Iterable[str]) -> None:
    others = [f"{root}/{child}" for child in files.directories(root)]
    for controller in sorted(_enabled(root).intersection(controllers)):
        if not any(_relies(other, controller) for other in others):
            files.write_value(f"{root}/cgroup.subtree_control", f"-{controller}")


def _relies(directory: str, controller: str) -> bool:
    """Whether a top-level cgroup of the host has a value that a new cgroup does not have."""
    if controller in _enabled(directory):
        return True
    of_knobs = {knob.file: knob.fresh for knob in VERSION_2 if knob.controller == controller}
    fresh = {**of_knobs, **_FRESH.get(controller, {})}
    return any(
        files.read_value(f"{directory}/{file}") not in (None, value)
        for file, value in fresh.items()
    )
