# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Allocates a range for each sandbox: the one in its lines, else the first free one of the pool."""

from __future__ import annotations

from types import MappingProxyType
from typing import Iterable, Mapping

from ..errors import ForeignError
from .files import SIZE, IdFiles, IdRange, Line, conflict, line_of, owner

# No other allocator uses the pool by default. systemd's UIDS-GIDS document
# gives 61184-65519 to dynamic services, 524288-1879048191 to systemd-nspawn and 2147352576-
# 2147418111 to foreign images, and warns of ids from 2^31 on, which devpts takes for negative.
# useradd picks from 100000-600100000 (SUB_UID_MIN, SUB_UID_MAX of login.defs), SSSD and FreeIPA
# map directory users to 200000-2000200000.
FIRST = 2000224256
LAST = 2130575359
# Jobs have the ranges after that, without lines: a job may last less than an edit of the files.
JOBS = 256
_HIGHEST = 2**32 - 2  # (uid_t) -1 means "no change" to the kernel


def allocate(
    files: IdFiles,
    names: Iterable[str],
    *,
    reserved: Mapping[str, IdRange] = MappingProxyType({}),
    leaving: Iterable[str] = (),
) -> dict[str, IdRange]:
    """Allocate a range for every name; ForeignError when existing lines contradict each other.

    ``reserved`` holds the ranges of recorded sandboxes: a range is not free because its line was
    lost, or because a removal has not ended. Lines of ``leaving`` sandboxes may contradict others.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        owner(name)
    gone = {*leaving} - {*names}
    known = _known(files, gone)
    for name, ids in reserved.items():
        if name in gone:
            continue
        line = line_of(name, ids, f"the record of sandbox {name!r},")
        _check_same(known.setdefault(name, line), line)
    _check_overlaps(files, known)
    missing = [name for name in names if name not in known]
    ranges = {name: line.ids for name, line in known.items() if line.ids is not None}
    ranges.update(zip(missing, _free(files, reserved.values(), len(missing))))
    return {name: ranges[name] for name in names}


def _known(files: IdFiles, leaving: set[str]) -> dict[str, Line]:
    """One line for each sandbox with lines; all lines of a sandbox must name the same range."""
    known: dict[str, Line] = {}
    for file in files.both:
        for line in file.lines:
            if line.name is None or line.name in leaving:
                continue
            ids = line.ids
            if ids is None or ids.size != SIZE or ids.start < SIZE or ids.last > _HIGHEST:
                raise ForeignError(
                    f"{line} is not a range of {SIZE} ids above the system's own",
                    hint=f"restore it to {line.owner}:START:{SIZE}, or remove it once the sandbox"
                    " is gone",
                )
            _check_same(known.setdefault(line.name, line), line)
    return known


def _check_same(first: Line, line: Line) -> None:
    if first.ids != line.ids:
        raise ForeignError(
            f"{first} and {line} give one sandbox two ranges",
            hint="keep the one its files belong to",
        )


def _check_overlaps(files: IdFiles, known: dict[str, Line]) -> None:
    ours = [(line, True) for line in known.values()]
    lines = ours + [(line, False) for line in files.foreign()]
    spans = [(line.ids.start, line.ids.last, line, mine) for line, mine in lines if line.ids]
    furthest: dict[bool, Line | None] = {True: None, False: None}
    for start, last, line, is_ours in sorted(spans, key=lambda span: span[:2]):
        for other_is_ours, other in furthest.items():
            if other and other.ids and other.ids.last >= start and (is_ours or other_is_ours):
                raise conflict(*((line, other) if is_ours else (other, line)))
        current = furthest[is_ours]
        if current is None or current.ids is None or current.ids.last < last:
            furthest[is_ours] = line


def available(files: IdFiles) -> int:
    """The number of free ranges in the pool."""
    return (LAST + 1 - FIRST) // SIZE - len(_taken_slots(files, []))


def of_job(files: IdFiles, number: int) -> IdRange | None:
    """The range for jobs of a number, None while a line or an account has ids of it."""
    ids = IdRange(LAST + 1 + number * SIZE)
    lines = (*files.uid.lines, *files.gid.lines, *files.accounts)
    return None if any(line.ids and line.ids.overlaps(ids) for line in lines) else ids


def _free(files: IdFiles, reserved: Iterable[IdRange], count: int) -> list[IdRange]:
    taken = _taken_slots(files, reserved)
    free = [slot for slot in range((LAST + 1 - FIRST) // SIZE) if slot not in taken][:count]
    if len(free) < count:
        raise ForeignError(
            f"{count} id ranges are needed and {len(free)} are free between {FIRST} and {LAST}",
            hint=f"remove sandboxes, or lines in that stretch of {files.uid.path} and"
            f" {files.gid.path} whose owners are gone",
        )
    return [IdRange(FIRST + slot * SIZE) for slot in free]


def _taken_slots(files: IdFiles, reserved: Iterable[IdRange]) -> set[int]:
    taken: set[int] = set()
    lines = [*files.uid.lines, *files.gid.lines, *files.accounts]
    for ids in [*(line.ids for line in lines), *reserved]:
        if ids is not None and ids.start <= LAST and ids.last >= FIRST:
            first, last = max(ids.start, FIRST) - FIRST, min(ids.last, LAST) - FIRST
            taken.update(range(first // SIZE, last // SIZE + 1))
    return taken
