# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plans the volumes of a run: refuses first, then says which to make, to change and to remove."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Dict, FrozenSet, List, Mapping, Sequence

from .. import sizes
from ..errors import SpecError, StateError
from ..kernel.trees import remove_tree
from ..plan import Operation
from ..site import Site
from . import records
from .model import ABSENT, Volume, VolumeSpec
from .records import Volumes

# Users of a volume by name; those of the sandboxes that are to exist.
Users = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Desired:
    """The volumes that a run asks for.

    ``listed`` are the declared ones, None when the kind is left alone. ``needed`` maps the volumes
    that sandboxes of the run name to what they are made as. ``users`` are the sandboxes that exist
    after the run. With ``unreadable`` records, nobody knows what their sandboxes use. ``busy``
    sandboxes run all the time.
    """

    listed: Mapping[str, VolumeSpec] | None = None
    needed: Mapping[str, Volume] = field(default_factory=dict)
    users: Users = field(default_factory=dict)
    unreadable: FrozenSet[str] = frozenset()
    purge: bool = False
    busy: FrozenSet[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """``after`` are the volumes that the host has after the run."""

    after: Mapping[str, Volume] = field(default_factory=dict)
    steps: Sequence[Operation] = ()
    last: Sequence[Operation] = ()


def plan(site: Site, desired: Desired, known: Volumes) -> Plan:
    listed = dict(desired.listed or {})
    gone = _gone(site, desired, known)
    wanted = _wanted(listed, desired.needed, known)
    for name in wanted:
        if name in listed and name in known.broken:
            raise known.broken[name]
    steps = _sweep(site)
    for name, volume in wanted.items():
        if name in known.broken:
            steps += _unusable(known.broken[name], desired.users.get(name, ()))
            continue
        if name in known.good:
            steps += _changes(site, known.good[name], volume)
        else:
            steps.append(_making(site, volume, desired))
        fresh = name not in known.good
        steps += _limits(site, volume, () if fresh else desired.users.get(name, ()), desired.busy)
    after = {**known.good, **wanted}
    return Plan(
        after={name: volume for name, volume in sorted(after.items()) if name not in gone},
        steps=steps,
        last=[_removal(site, name) for name in gone],
    )


def _wanted(
    listed: Mapping[str, VolumeSpec], needed: Mapping[str, Volume], known: Volumes
) -> Dict[str, Volume]:
    """The volumes of the run as they are to be; declared ones have the settings declared."""
    wanted = {name: known.good.get(name, fresh) for name, fresh in needed.items()}
    for name, spec in listed.items():
        if spec.state != ABSENT:
            present = wanted.get(name) or known.good.get(name) or Volume(name, records.now())
            wanted[name] = present.declared(spec)
    return dict(sorted(wanted.items()))


def _making(site: Site, volume: Volume, desired: Desired) -> Operation:
    users = desired.users.get(volume.name, ())
    declared = volume.name in (desired.listed or {})
    summary = "make" if declared or not users else f"make, as {users[0]} names it"
    return Operation(f"volume {volume.name}", summary, partial(records.make, site, volume))


def _unusable(error: StateError, users: Sequence[str]) -> List[Operation]:
    """Operations that fail for the sandboxes which use a volume with a damaged record."""

    def fail() -> None:
        raise error

    return [Operation(name, "look at its volumes", fail, subject=name) for name in users]


def _changes(site: Site, old: Volume, new: Volume) -> List[Operation]:
    """The change of the record; what follows from a size is announced by its own line."""
    if (old.labels, old.size) == (new.labels, new.size):
        return []

    def change() -> None:
        present = records.load(site, new.name) or new
        records.save(site, replace(present, labels=new.labels, size=new.size))

    silent = old.labels == new.labels
    return [Operation(f"volume {new.name}", "change labels", change, silent=silent)]


def _limits(
    site: Site, volume: Volume, users: Sequence[str], running: FrozenSet[str]
) -> List[Operation]:
    """The step to the size of a volume; SpecError or HostError when it can't be enforced."""
    place, option = records.place(site, volume.name), f"size of volume {volume.name}"
    bound = sizes.look(site, place)
    due = sizes.due(bound, volume.size)
    if due is None:
        return []
    sizes.check(bound, place, volume.size, option)
    offline = due.needs == sizes.OFFLINE
    busy = [name for name in users if name in running]
    if offline and busy:
        problem = f"can't change while {_listed(busy)} runs: sandlot has to {due.summary}"
        hint = f"stop {busy[0]} in the same run or before (state: stopped)"
        raise SpecError(option, volume.size, problem, hint=hint)
    act = partial(sizes.remake if offline else sizes.apply, site, place, volume.size, option)
    return [Operation(f"volume {volume.name}", due.summary, act)]


def _sweep(site: Site) -> List[Operation]:
    left = records.leftovers(site)
    if not left:
        return []

    def sweep() -> None:
        for path in left:
            remove_tree(path)

    return [Operation("volumes", "clean up after an interrupted run", sweep)]


# -- removals


def _gone(site: Site, desired: Desired, known: Volumes) -> List[str]:
    """The volumes to remove; SpecError for one that has to stay."""
    listed = desired.listed or {}
    present = {*known.good, *known.broken}
    asked = [name for name, spec in listed.items() if spec.state == ABSENT and name in present]
    for name in asked:
        _check_removal(site, name, desired, force=listed[name].force)
    purged: List[str] = []
    if desired.purge and desired.listed is not None and not desired.unreadable:
        purged = [name for name in sorted(known.good) if _is_unused(name, desired)]
    return [*asked, *purged]


def _is_unused(name: str, desired: Desired) -> bool:
    return not (name in (desired.listed or {}) or name in desired.needed or desired.users.get(name))


def _check_removal(site: Site, name: str, desired: Desired, *, force: bool) -> None:
    users = [*desired.users.get(name, ()), *desired.unreadable]
    if users:
        problem = f"is used by {_listed(users)}"
        if not desired.users.get(name):
            problem = f"may be used by {_listed(users)}, whose record can't be read"
        hint = "remove them first, or take the volume out of their volumes and mounts"
        raise SpecError("volumes", name, problem, hint=hint)
    if not force and holds_data(site, name):
        hint = "set force: true to remove it with its data, or keep it"
        raise SpecError("volumes", name, "holds data", hint=hint)


def _listed(users: Sequence[str]) -> str:
    names = sorted(set(users))
    return f"sandbox{'es' if len(names) > 1 else ''} {', '.join(names)}"


def holds_data(site: Site, name: str) -> bool:
    """Whether the volume has files; what mkfs(8) makes is none."""
    try:
        with os.scandir(site.volume(name).data) as entries:
            if any(entry.name != "lost+found" for entry in entries):
                return True
    except FileNotFoundError:
        pass
    volume = records.load(site, name)
    # A file system in a file may hold what is not mounted.
    hidden = not sizes.look(site, records.place(site, name)).ready
    return volume is None or bool(hidden and volume.populated)


def _removal(site: Site, name: str) -> Operation:
    return Operation(f"volume {name}", "remove", partial(records.remove, site, name))
