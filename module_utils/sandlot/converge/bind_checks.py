# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checks the mounts that a sandbox asks for against the host, before anything changes."""

from __future__ import annotations

import itertools
import os
import stat
from functools import cache
from pathlib import PurePath
from typing import Callable, Iterable, Iterator, Mapping, Tuple

from ..build import sources
from ..errors import LaunchError, SpecError
from ..host_paths import OURS
from ..idmap import IdRange
from ..kernel import mountinfo
from ..sandbox.record import Record
from ..site import Site
from ..spec import Mount, Spec
from ..spec.mounts import BIND, VOLUME

# Entries of a directory that are looked at.
_FEW = 100


def _mounts(spec: Spec) -> Iterator[Tuple[str, Mount]]:
    for option in ("volumes", "mounts"):
        for mount in getattr(spec, option):
            yield option, mount


def check(
    site: Site,
    spec: Spec,
    had: Spec | None,
    maps_ids: Callable[[str], bool],
    kinds: Callable[[], Mapping[str, str]],
    *,
    may_be_made: bool,
) -> None:
    """SpecError for a mount that this host can't make.

    A sandbox that runs keeps the mounts that it ``had``: a tenant who takes away the source of
    another's mount must not hold up runs. In check mode, a directory that is missing
    ``may_be_made`` by an earlier task. A file server is not asked, as it may hang: a start tells
    what is wrong. ``kinds`` tells the types of all mounts of the host.
    """
    kept = {mount for dummy, mount in _mounts(had)} if had else set()
    for option, mount in _mounts(spec):
        if mount in kept:
            continue
        if mount.type == VOLUME and not maps_ids(site.volumes):
            problem = f"can't be mounted: the file system of {site.volumes} can't map ids"
            hint = "move it to ext4, xfs, btrfs or another one that can, or use a bind mount"
            raise SpecError(option, mount.source, problem, hint=hint)
        if mount.type != BIND or mountinfo.server_of(mount.source, kinds()):
            continue
        if may_be_made and not os.path.lexists(mount.source):
            continue
        try:
            ours, as_root = (site.state, site.run, *OURS), mount.idmap and not mount.read_only
            os.close(sources.bind_source(mount.source, ours, as_root=as_root))
        except LaunchError as error:
            raise SpecError(option, mount.source, error.message, hint=error.hint) from error
        if mount.idmap and not maps_ids(mount.source):
            problem = "can't be mounted with idmap: its file system can't map ids"
            hint = "leave out idmap, and give the files to ids of the sandbox's range"
            raise SpecError(option, mount.source, problem, hint=hint)


def warnings(records: Iterable[Record]) -> list[str]:
    """Warnings about bind mounts that are writable: by no id of inside, or by root of the host."""
    lines: list[str] = []
    kinds = cache(mountinfo.kinds)
    for record in records:
        for dummy, mount in _mounts(record.spec):
            writable = mount.type == BIND and not mount.read_only
            if writable and not mountinfo.server_of(mount.source, kinds()):
                warn = _as_root if mount.idmap else _warning
                lines += warn(record, mount.source)
    return lines


def _as_root(record: Record, path: str) -> Iterator[str]:
    """Warn of a place where set-user-id programs of a tenant would be those of the host's root."""
    try:
        source = sources.bind_source(path, as_root=True)
    except LaunchError:
        return  # the check, or the start, tells
    try:
        place, flags = os.readlink(f"/proc/self/fd/{source}"), os.fstatvfs(source).f_flag
    finally:
        os.close(source)
    if not flags & os.ST_NOSUID and not any(_is_closed(above) for above in PurePath(place).parents):
        yield (
            f"{record.name} writes to {path} of the host as root (idmap), and users of the host "
            "reach it: a set-user-id program there would be one of root's. Put it below a directory"
            " that only root enters (chmod 0700), or on a mount with nosuid"
        )


def _is_closed(directory: PurePath) -> bool:
    """Whether only root enters a directory."""
    status = os.stat(directory)
    by_group = status.st_mode & stat.S_IXGRP and status.st_gid
    return not (status.st_uid or by_group or status.st_mode & stat.S_IXOTH)


def _warning(record: Record, path: str) -> Iterator[str]:
    try:
        source = sources.bind_source(path)
    except LaunchError:
        return  # the check, or the start, tells
    try:
        closed = not any(_may_write(status, record.ids) for status in _statuses(source))
    finally:
        os.close(source)
    if closed:
        ids = record.ids
        yield (
            f"{record.name} has {path} of the host, but no id of its own (host ids {ids.start} to "
            f"{ids.last}) may write there: give it to one of them, such as {ids.start} for root "
            "inside, or set idmap or read_only"
        )


def _statuses(source: int) -> Iterator[os.stat_result]:
    """Yield the status of a directory and of a few of its entries, or of a file."""
    top = os.fstat(source)
    yield top
    if stat.S_ISDIR(top.st_mode):
        readable = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.scandir(readable) as entries:
                for entry in itertools.islice(entries, _FEW):
                    yield entry.stat(follow_symlinks=False)
        finally:
            os.close(readable)


def _may_write(status: os.stat_result, ids: IdRange) -> bool:
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return False
    owns = ids.start <= status.st_uid <= ids.last
    in_group = bool(mode & stat.S_IWGRP) and ids.start <= status.st_gid <= ids.last
    return owns or in_group or bool(mode & stat.S_IWOTH)
