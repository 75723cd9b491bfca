# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the limits in force, and refuses those that this host can't enforce."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Collection, Iterable, Iterator, Mapping, Sequence

from ..errors import HostError, SpecError
from ..kernel import cpulist, files
from ..site import Site
from .knobs import (
    CONTROLLERS,
    PERIOD,
    SOCKETS_FILE,
    SWAP_FILES,
    VERSION_1,
    VERSION_2,
    Host,
    Knob,
    quota,
)
from .layout import Hierarchy, Layout, detect

if TYPE_CHECKING:
    from ..spec import Spec

# For so many, looks at their cgroups take less time than a list of all.
_FEW = 20
_SHORTEST_QUOTA = 1000  # microseconds; the kernel takes no less


@dataclass(frozen=True)
class Observed:
    """One sandbox: its present and missing cgroups, and the text of each knob's file."""

    existing: tuple[str, ...]
    missing: tuple[str, ...]
    values: Mapping[str, str | None]


@dataclass(frozen=True)
class CgroupState:
    layout: Layout
    host: Host
    swap: bool
    sockets: bool
    sandboxes: Mapping[str, Observed]
    parents: tuple[str, ...]


def observe(site: Site, names: Iterable[str], layout: Layout | None = None) -> CgroupState:
    layout = layout or detect()
    parents, names = [hierarchy.parent(site) for hierarchy in layout.hierarchies], [*names]
    present = None
    if len(names) > _FEW:
        present = {f"{parent}/{name}" for parent in parents for name in files.directories(parent)}
    return CgroupState(
        layout=layout,
        host=_host(layout),
        swap=_accounts_swap(layout),
        sockets=_accounts_sockets(layout),
        sandboxes={name: observe_one(site, name, layout, present) for name in names},
        parents=tuple(parent for parent in parents if os.path.isdir(parent)),
    )


def observe_one(
    site: Site, name: str, layout: Layout, present: Collection[str] | None = None
) -> Observed:
    """Observe one sandbox; ``present`` are the cgroups of all, if the caller knows them."""
    paths = {hierarchy: hierarchy.sandbox(site, name) for hierarchy in layout.hierarchies}
    exists = os.path.isdir if present is None else present.__contains__
    existing = tuple(path for path in paths.values() if exists(path))
    missing = tuple(path for path in paths.values() if path not in existing)
    values: dict[str, str | None] = {}
    if existing:
        for hierarchy, knob in offered(layout):
            text = files.read_value(f"{paths[hierarchy]}/{knob.file}")
            values[knob.file] = knob.canonical(text)
    return Observed(existing, missing, values)


@lru_cache(maxsize=1)
def offered(layout: Layout) -> Sequence[tuple[Hierarchy, Knob]]:
    """The knobs of this host: of each controller, in the version that it is mounted as."""
    knobs_here = []
    unified = next((hierarchy for hierarchy in layout.hierarchies if hierarchy.unified), None)
    for knobs, version_2 in ((VERSION_1, False), (VERSION_2, True)):
        for knob in knobs:
            # Version 2 has the files of "cgroup" in every hierarchy.
            hierarchy = unified if knob.controller == "cgroup" else layout.having(knob.controller)
            if hierarchy and hierarchy.unified is version_2:
                knobs_here.append((hierarchy, knob))
    return knobs_here


def _host(layout: Layout) -> Host:
    hierarchy = layout.having("cpuset")
    if hierarchy is None:
        return Host(frozenset(os.sched_getaffinity(0)), frozenset())
    suffix = ".effective" if hierarchy.unified else ""
    cpus = files.read_value(f"{hierarchy.directory}/cpuset.cpus{suffix}")
    mems = files.read_value(f"{hierarchy.directory}/cpuset.mems{suffix}")
    return Host(cpulist.parse(cpus or ""), cpulist.parse(mems or ""))


def _accounts_swap(layout: Layout) -> bool:
    """Version 2 shows its swap file below the root only; without any cgroup there it is assumed."""
    hierarchy = layout.having("memory")
    if hierarchy is None:
        return False
    if not hierarchy.unified:
        return os.path.exists(f"{hierarchy.directory}/memory.memsw.limit_in_bytes")
    below = [f"{hierarchy.directory}/{child}" for child in files.directories(hierarchy.directory)]
    limited = [path for path in below if os.path.exists(f"{path}/memory.max")]
    return not limited or os.path.exists(f"{limited[0]}/memory.swap.max")


def _accounts_sockets(layout: Layout) -> bool:
    """Whether version 1 has the file; version 2 counts sockets as memory."""
    hierarchy = layout.having("memory")
    if hierarchy is None or hierarchy.unified:
        return hierarchy is not None
    return os.path.exists(f"{hierarchy.directory}/{SOCKETS_FILE}")


def wanted(spec: Spec, state: CgroupState) -> Iterator[tuple[Hierarchy, Knob, str]]:
    missing = set() if state.swap else set(SWAP_FILES)
    missing |= set() if state.sockets else {SOCKETS_FILE}
    for hierarchy, knob in offered(state.layout):
        if knob.file not in missing:
            yield hierarchy, knob, knob.wanted(spec, state.host)


def directories(site: Site, name: str, state: CgroupState) -> list[str]:
    """The cgroups that a process of the sandbox joins, by ``cgroup.procs``."""
    return [hierarchy.sandbox(site, name) for hierarchy in state.layout.hierarchies]


def check(spec: Spec, state: CgroupState) -> None:
    """SpecError or HostError for a limit that can't be enforced here; nothing is changed."""
    here = {knob.option for dummy, knob in offered(state.layout)}
    for option, controller in CONTROLLERS.items():
        value = getattr(spec, option)
        if value and value != -1 and option not in here:
            raise _not_offered(option, controller, state.layout)
    unified = any(hierarchy.unified for hierarchy in state.layout.hierarchies)
    if spec.devices and not unified and not state.layout.having("devices"):
        raise HostError(
            "devices can't be enforced: no hierarchy of cgroups restricts them",
            hint="mount cgroups of version 2, or the controller devices of version 1",
        )
    if spec.memory is not None and not state.sockets:
        raise HostError(
            "memory can't be enforced: the kernel does not account the memory of sockets",
            hint="use a kernel with CONFIG_MEMCG_KMEM and CONFIG_INET, or leave memory out",
        )
    if spec.memory_swap is not None and not state.swap:
        raise HostError(
            "memory_swap can't be enforced: the kernel does not account swap",
            hint="boot the host with swapaccount=1, or leave memory_swap out",
        )
    if spec.cpus is not None and (quota(spec) or 0) < _SHORTEST_QUOTA:
        hint = f"use {_SHORTEST_QUOTA / PERIOD:g} or more"
        raise SpecError("cpus", spec.cpus, "is less than the kernel can enforce", hint=hint)
    if spec.cpuset_cpus is None:
        return
    unknown = spec.cpuset_cpus - state.host.cpus
    if unknown:
        problem = f"names CPUs this host does not have: {cpulist.render(unknown)}"
        hint = f"use CPUs of {cpulist.render(state.host.cpus)}"
        raise SpecError("cpuset_cpus", cpulist.render(spec.cpuset_cpus), problem, hint=hint)


def _not_offered(option: str, controller: str, layout: Layout) -> HostError:
    without = "set pids_limit to -1" if option == "pids_limit" else f"leave {option} out"
    hierarchy = layout.having(controller)
    if hierarchy:
        version = 2 if hierarchy.unified else 1
        problem = f"version {version} of cgroups, which this host has, does not know this limit"
        return HostError(f"{option} can't be enforced: {problem}", hint=without)
    disabled = f"boot the host with cgroup_enable={controller} if it is disabled"
    return HostError(
        f"{option} can't be enforced: the {controller} cgroup controller is missing",
        hint=f"mount cgroups with that controller ({disabled}), or {without}",
    )
