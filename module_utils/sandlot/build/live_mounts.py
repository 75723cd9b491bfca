# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes the mounts of a running sandbox.

A child opens the sources as host root on the host, has their flags locked as at a start, and joins
the sandbox's mount namespace as root of its user namespace. There it resolves targets, below the
root and with no more rights than the sandbox's root has. No tenant sees or signals it, as it stays
outside the other namespaces. It brings along descriptors of the host's /proc.
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import ExitStack
from functools import partial
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..errors import LaunchError
from ..kernel import fork, mountinfo, mounts, namespaces
from ..kernel.files import pwrite_all
from ..kernel.mounts import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS
from ..sandbox import mount_state, runtime
from ..sandbox.mount_state import Plan, SandboxMount
from ..site import SandboxPaths
from . import become, beneath, mounting, namespace, places, rootfs, rootplan, sources
from .operations import MOUNTS

PATIENCE_SECONDS = 60.0
_PLACE = os.O_PATH | os.O_CLOEXEC
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_MOVED = 1000  # times that a tenant may move a mount while it is looked up
_RESTART = "run again with restart: true"
_MOVED_AWAY = f"the sandbox has moved or covered what is there; {_RESTART}"


class Gone(NamedTuple):
    """A removed mount; a ``busy`` one lives on for the programs that have files open in it."""

    target: str
    busy: bool


def change(
    sandbox: SandboxPaths,
    plan: Plan,
    ids: Mapping[str, int],
    scratch: str,
    seen: Mapping[str, Tuple[int, int] | None] | None = None,
) -> List[Gone]:
    """Make the changes and note the mounts that the sandbox has then, also after a failure.

    ``scratch`` is a directory for the build namespace. ``seen`` has device and inode of files that
    the sandbox has to see afterwards, None for one that is not to be there. A sandbox that has
    ended meanwhile gets its mounts at the next start.
    """
    init = runtime.running(sandbox)
    if init is None:
        return []
    with ExitStack() as stack:
        opened = partial(_opened, stack)
        # Pinned first: as long as init lives after that, they are its own.
        space = opened(f"/proc/{init.pid}/ns/mnt")
        table = opened(f"/proc/{init.pid}/mountinfo")
        user = opened(sandbox.pin("user"))
        if runtime.running(sandbox) is None:
            return []
        if not namespaces.is_owned_by(space, user):
            raise LaunchError(f"{sandbox.name}: its mount namespace is not its own", hint=_RESTART)
        # A run that is killed from here on leaves its traces to the next one.
        mount_state.begin(sandbox, mount_state.observe(sandbox, init))
        pending = opened(sandbox.pending_mounts, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        work = partial(_outcome, _Job(space, table, user, pending, plan, ids, scratch, seen or {}))
        try:
            report, status = fork.call(lambda dummy: work(), _deadline(sandbox))
        finally:
            mount_state.note(sandbox, mount_state.observe(sandbox, init))
    if status or not report:
        raise LaunchError(f"{sandbox.name}: the process that mounts ended with status {status}")
    answer = json.loads(report)
    if "error" in answer:
        raise LaunchError(answer["error"], hint=answer["hint"] or _RESTART)
    return [Gone(*each) for each in answer["gone"]]


def _opened(stack: ExitStack, path: str, flags: int = os.O_RDONLY) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    return fd


def _deadline(sandbox: SandboxPaths) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS

    def watch() -> None:
        if time.monotonic() > end:
            raise LaunchError(f"{sandbox.name}: its mounts can't be changed", hint=_RESTART)

    return watch


class _Held(NamedTuple):
    """A mount, and the directory in which its mount point has a name."""

    holder: int
    leaf: str
    place: int

    def close(self) -> None:
        os.close(self.holder)
        os.close(self.place)


class _Job(NamedTuple):
    """Descriptors of the sandbox: mount namespace, mountinfo, user namespace, pending file."""

    space: int
    table: int
    user: int
    pending: int
    plan: Plan
    ids: Mapping[str, int]
    scratch: str
    seen: Mapping[str, Tuple[int, int] | None]


def _outcome(job: _Job) -> bytes:
    answer: Dict[str, Any] = {}
    try:
        answer["gone"] = _Inside(job, _prepared(job)).run()
    except OSError as error:
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        answer = {"error": f"mounts: {error.strerror}{where}", "hint": ""}
    except LaunchError as error:
        answer = {"error": error.message, "hint": error.hint}
    return json.dumps(answer).encode()


def _prepared(job: _Job) -> List[int]:
    """Detached mounts of the entries to add, with locked flags; their places are the plan's."""
    entries = job.plan.add
    of_host = [entry for entry in entries if "options" not in entry]
    opened = [sources.opened(entry, job.user) for entry in of_host]
    namespaces.setns(namespace.make(job.scratch), namespaces.CLONE_NEWNS)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    if of_host:
        mounting.stage()
    places = [f"{MOUNTS}/{number}" for number in range(len(of_host))]
    for mount, place in zip(opened, places):
        mounting.put(mount, place)
    become.root(job.user)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    locked = iter([mounting.locked(place) for place in places])
    return [_tmpfs(entry, job.ids) if "options" in entry else next(locked) for entry in entries]


def _tmpfs(entry: Mapping[str, Any], ids: Mapping[str, int]) -> int:
    operation = rootplan.tmpfs(entry["target"], entry["options"], ids, asked=True)
    return mounts.new_mount("tmpfs", operation.options, operation.flags)


class _Inside:
    """The child in the sandbox's mount namespace."""

    def __init__(self, job: _Job, new: Sequence[int]) -> None:
        self.job = job
        self.new = dict(zip((entry["target"] for entry in job.plan.add), new))
        # Those of inside show the processes of the sandbox only.
        self.own = os.open("/proc/self/fd", _PLACE | os.O_DIRECTORY)
        self.about = os.open("/proc/self/fdinfo", _PLACE | os.O_DIRECTORY)
        self.gone: List[Gone] = []
        self.ids = {target: self._id(mount) for target, mount in self.new.items()}
        self._announce()
        self.stage = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(job.space, namespaces.CLONE_NEWNS)
        self.root = os.open(".", _PLACE | os.O_DIRECTORY)

    def _announce(self) -> None:
        """Write the ids of new mounts, for the run after one that is killed."""
        ids = [(entry, self.ids[entry["target"]]) for entry in self.job.plan.add]
        os.ftruncate(self.job.pending, 0)
        pwrite_all(self.job.pending, mount_state.pending(ids), 0)

    def run(self) -> List[Gone]:
        plan = self.job.plan
        added = {entry["target"]: mount_state.is_of_record(entry) for entry in plan.add}
        # The place of a file goes with it: what comes instead may be a directory.
        replaced = {
            each.target: each
            for each in plan.remove
            if each.target in added
            and (added[each.target] or not mount_state.is_of_record(each.entry))
        }
        for each in plan.remove:
            if replaced.get(each.target) is not each:
                self._remove(each)
        for entry in plan.add:
            self._add(entry, replaced.get(entry["target"]))
        for entry in plan.add:
            self._verify(entry)
        for path, expected in self.job.seen.items():
            self._verify_file(path, expected)
        return self.gone

    def _add(self, entry: Mapping[str, Any], old: SandboxMount | None) -> None:
        target = entry["target"]
        mount = self.new[target]
        becomes_read_only = entry.get("read_only") and old and not old.entry.get("read_only")
        if old is not None and self._replace(entry, old, freeze=bool(becomes_read_only)):
            return
        base, within = self._base(target)
        top = base < 0
        place = self.root if top else base
        made = mounting.made_for(entry)
        try:
            if top:
                self._make_place(target, mount, made)
            mounting.attach(place, within, mount, target, follow=top, own=self.own, made=made)
        except OSError as error:
            # Also when a tenant exchanges a directory for a link at this moment.
            raise LaunchError(f"{target} can't be mounted: {error.strerror}") from error

    def _replace(self, entry: Mapping[str, Any], old: SandboxMount, *, freeze: bool) -> bool:
        """Put the new mount below the old one and take that away: no moment shows neither.

        False when only the old one is removed, for kernels before 6.5 and mounts of more than a
        file. With ``freeze``, programs can't write to the old one either, unless a file there is
        open for writing.
        """
        held = self._held(old)
        if held is None:
            return False
        if freeze:
            self._freeze(held.place)
        placed = beneath.attach(self.new[entry["target"]], held.place)
        if not placed and mount_state.is_of_record(entry):
            self._propagate(entry["target"], old, held)
            placed = True
        self._unmount(old, held)
        return placed

    def _propagate(self, target: str, old: SandboxMount, held: _Held) -> None:
        around = self._around(held.holder, target)
        beneath.propagate(
            self.new[target],
            around,
            held.holder,
            held.leaf,
            space=self.job.space,
            stage=self.stage,
        )
        os.close(around)
        os.fchdir(self.root)
        # The mount that is there is a copy, with an id of its own.
        self.ids[target] = self._table()[old.id].parent
        self._announce()

    def _around(self, holder: int, target: str) -> int:
        """The root of the mount that a directory lies in."""
        number = self._id(holder)
        if number == self._id(self.root):
            return os.dup(self.root)
        held = self._held(SandboxMount({"target": target}, number))
        if held is None:
            raise LaunchError(f"{target}: the mount around it is gone", hint=_RESTART)
        os.close(held.holder)
        return held.place

    def _freeze(self, place: int) -> None:
        try:
            mounts.set_attributes(place, mounts.MOUNT_ATTR_RDONLY, recursive=True)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise

    def _base(self, target: str) -> Tuple[int, str]:
        """The mount of ours around a target, -1 for none, and the path in it."""
        around = {place: fd for place, fd in self.new.items() if target.startswith(f"{place}/")}
        for each in self.job.plan.keep:
            held = self._held(each) if target.startswith(f"{each.target}/") else None
            if held is not None:
                around[each.target] = held.place
        if not around:
            return -1, target
        longest = max(around, key=len)
        return around[longest], target[len(longest) :]

    def _make_place(self, target: str, mount: int, made: mounting.Made) -> None:
        """Make a missing target of a read-only root, through a writable copy of its mount."""
        if not os.statvfs(self.root).f_flag & os.ST_RDONLY:
            return
        copy = mounts.clone_tree("", dir_fd=self.root)
        mounts.set_attributes(copy, 0, clear=mounts.MOUNT_ATTR_RDONLY)
        mounting.make_place(copy, target, mount, made)
        os.close(copy)

    def _remove(self, each: SandboxMount) -> None:
        held = self._held(each)
        if held is None:
            return
        holder = os.dup(held.holder)
        self._unmount(each, held)
        if mount_state.is_of_record(each.entry):
            places.give_up(holder, held.leaf)
        os.close(holder)

    def _unmount(self, each: SandboxMount, held: _Held) -> None:
        """Unmount by name, which tells whether it is busy, else by descriptor.

        The name is safe: nobody renames or removes a mount point (rename(2), EBUSY).
        """
        around_others = any(row.parent == each.id for row in self._table().values())
        os.fchdir(held.holder)
        held.close()
        busy = False
        try:
            mounts.umount(held.leaf, mounts.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            busy = True
        os.fchdir(self.root)
        again = self._held(each) if busy else None
        if again is not None:
            os.fchdir(self.own)
            mounts.umount(str(again.place), mounts.MNT_DETACH)
            os.fchdir(self.root)
            again.close()
        # A program that has the old file open reads it to its end, as after a rename.
        busy = busy and not around_others and not mount_state.is_of_record(each.entry)
        self.gone.append(Gone(each.target, busy))

    def _held(self, each: SandboxMount) -> _Held | None:
        """A mount by descriptors; None when it is gone.

        Its path is the kernel's, of now; a tenant may move directories above it meanwhile.
        """
        for dummy in range(_MOVED):
            row = self._table().get(each.id)
            if row is None:
                return None
            held = self._opened(row.point)
            if held is not None and self._id(held.place) == each.id:
                return held
            if held is not None:
                held.close()
        raise LaunchError(
            f"{each.target}: something else is mounted over it, or moves it all the time",
            hint=_RESTART,
        )

    def _opened(self, point: str) -> _Held | None:
        parent, dummy, leaf = point.rpartition("/")
        holder = place = -1
        try:
            flags = _PLACE | os.O_DIRECTORY
            holder = mounts.openat2(self.root, parent.lstrip("/") or ".", flags, _INSIDE)
            place = mounts.openat2(holder, leaf, _PLACE | os.O_NOFOLLOW, rootfs.STRICT)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            if holder >= 0:
                os.close(holder)
            return None
        return _Held(holder, leaf, place)

    def _verify(self, entry: Mapping[str, Any]) -> None:
        target = entry["target"]
        if self.ids[target] not in self._table():
            raise LaunchError(f"{target} is not mounted inside", hint=_RESTART)
        if mount_state.is_of_record(entry):
            status = os.fstat(self.new[target])
            self._verify_file(target, (status.st_dev, status.st_ino))

    def _verify_file(self, path: str, expected: Tuple[int, int] | None) -> None:
        """A path has to lead to a file or directory, as programs of the sandbox would find it."""
        try:
            fd = mounts.openat2(self.root, path.lstrip("/"), _PLACE, RESOLVE_IN_ROOT)
        except OSError as error:
            if expected is None and error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            problem = f"{path} can't be found inside: {error.strerror}"
            raise LaunchError(problem, hint=_MOVED_AWAY) from error
        status = os.fstat(fd)
        os.close(fd)
        if expected is not None and (status.st_dev, status.st_ino) != expected:
            raise LaunchError(f"{path} does not show its new content inside", hint=_MOVED_AWAY)

    def _table(self) -> Dict[int, mountinfo.Row]:
        os.lseek(self.job.table, 0, os.SEEK_SET)
        return mountinfo.parsed(b"".join(iter(partial(os.read, self.job.table, 1 << 16), b"")))

    def _id(self, fd: int) -> int:
        """The kernel's id of the mount of a descriptor (proc(5), fdinfo)."""
        info = os.open(str(fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.about)
        try:
            text = os.read(info, 4096).decode()
        finally:
            os.close(info)
        return mountinfo.mount_id(text)
