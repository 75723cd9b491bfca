# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes a sandbox's cgroups and sets its limits, also while it runs."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Mapping, NamedTuple

from ..errors import HostError, SandlotError
from ..kernel import files
from ..plan import Operation
from ..site import Site
from . import parents
from .knobs import SOCKETS_FILE, UNLIMITED, Knob
from .layout import Hierarchy
from .state import CgroupState, check, observe_one, wanted
from .usage import used_by_sockets, used_memory

if TYPE_CHECKING:
    from ..spec import Spec

_NOT_ABOUT_THE_VALUE = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_MEMORY_FILES = (
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max",
    SOCKETS_FILE,
)


class _Change(NamedTuple):
    hierarchy: Hierarchy
    knob: Knob
    before: str | None
    after: str

    @property
    def text(self) -> str:
        return self.knob.spelled(self.after)

    def describe(self) -> str:
        show = self.knob.show
        before = "none" if self.before is None else show(self.before) or "any"
        return f"{self.knob.label} {before} -> {show(self.after) or 'any'}"


def operations(site: Site, name: str, spec: Spec, state: CgroupState) -> list[Operation]:
    """One operation for all differences, [] without any; every limit changes live."""
    check(spec, state)
    observed = state.sandboxes[name]
    changes = _changes(spec, state, observed.values)
    if not observed.missing and not changes:
        return []
    if observed.existing:
        summary = ", ".join(change.describe() for change in changes) or "complete"
    else:
        summary = "create"
    return [Operation(name, f"cgroup: {summary}", lambda: _apply(site, name, spec, state))]


def fresh(site: Site, name: str, spec: Spec, state: CgroupState) -> list[tuple[str, str]]:
    """Make the cgroups; the files that set the limits of new ones, with their values."""
    _make(site, name, state)
    changes = _ordered(_changes(spec, state, observe_one(site, name, state.layout).values))
    return [
        (f"{change.hierarchy.sandbox(site, name)}/{change.knob.file}", change.text)
        for change in changes
    ]


def _changes(spec: Spec, state: CgroupState, values: Mapping[str, str | None]) -> list[_Change]:
    changes = []
    for hierarchy, knob, after in wanted(spec, state):
        before = values.get(knob.file)
        if before != after:
            changes.append(_Change(hierarchy, knob, before, after))
    return changes


def _apply(site: Site, name: str, spec: Spec, state: CgroupState) -> None:
    _make(site, name, state)
    values = observe_one(site, name, state.layout).values
    changes = _ordered(_changes(spec, state, values))
    for change in changes:
        _set(change, change.hierarchy.sandbox(site, name), name)
    if any(change.knob.option == "memory_reservation" for change in changes):
        parents.protect(site, state.layout)


def _make(site: Site, name: str, state: CgroupState) -> None:
    parents.ensure(site, state.layout, state.host)
    for hierarchy in state.layout.hierarchies:
        with contextlib.suppress(FileExistsError):
            os.mkdir(hierarchy.sandbox(site, name), 0o755)


def _ordered(changes: list[_Change]) -> list[_Change]:
    """Order writes so that in version 1 memory never exceeds memory and swap together."""
    swap = [change for change in changes if change.knob.file == "memory.memsw.limit_in_bytes"]
    if not swap or _amount(swap[0].after) >= _amount(swap[0].before):
        return changes
    return [change for change in changes if change not in swap] + swap


def _amount(value: str | None) -> float:
    return float("inf") if value is None or value == UNLIMITED else int(value)


def _set(change: _Change, directory: str, name: str) -> None:
    knob, path = change.knob, f"{directory}/{change.knob.file}"
    if knob.file == "memory.max" and change.after != UNLIMITED:
        _make_room(change, directory, name)
    try:
        files.write_value(path, change.text)
    except OSError as error:
        if error.errno == errno.EBUSY and knob.file in _MEMORY_FILES:
            raise _too_much_used(change, directory, name) from error
        if error.errno in _NOT_ABOUT_THE_VALUE:
            raise
        raise HostError(
            f"{knob.label} can't be set to {knob.show(change.after)}: {path}: {error.strerror}",
            hint=f"the kernel refuses it; leave {knob.option} out or use another value",
        ) from error


def _make_room(change: _Change, directory: str, name: str) -> None:
    """Reclaim memory, or refuse the limit as version 1 does; version 2 would kill processes."""
    excess = (used_memory(directory) or 0) - int(change.after)
    if excess <= 0:
        return
    # Fails with EAGAIN when less than that could be reclaimed; older kernels lack the file.
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        files.write_value(f"{directory}/memory.reclaim", str(excess))
    if (used_memory(directory) or 0) > int(change.after):
        raise _too_much_used(change, directory, name)


def _too_much_used(change: _Change, directory: str, name: str) -> SandlotError:
    label = change.knob.label
    used = (used_by_sockets if change.knob.file == SOCKETS_FILE else used_memory)(directory)
    return SandlotError(
        f"{label} of {name} can't be lowered to {change.after}: {used} bytes are in use",
        hint=f"stop the sandbox and deploy again, or use a higher {change.knob.option}",
    )
