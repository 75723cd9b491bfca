# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Devices of the host that a sandbox gets: looked up, refused, and restricted by its cgroup."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..kernel import device_rules, trusted_path
from ..kernel.device_rules import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Mapping

    from ..site import SandboxPaths
    from ..spec.devices import Device

    Entry = Dict[str, Any]

_LEAVE_OUT = "leave it out"
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
# Numbers of Documentation/admin-guide/devices.txt; None is every minor.
_OF_THE_HOST = {
    ("c", 1, 1): "is the memory of the host",
    ("c", 1, 2): "is the memory of the kernel",
    ("c", 1, 4): "is the input and output ports of the host",
    ("c", 1, 11): "is the log of the host's kernel",
    ("c", 5, 1): "is the console of the host",
    ("c", 10, 144): "is the memory of the host's firmware",
    ("c", 10, 227): "tells and takes machine checks of the host",
    ("c", 10, 231): "is the host's memory when it hibernates",
    ("c", 10, 234): "controls all btrfs file systems of the host",
    ("c", 10, 236): "controls all mapped block devices of the host",
    ("c", 10, 237): "makes block devices of any file of the host",
    ("c", 202, None): "sets registers of the host's processors",
}


def launched(devices: Iterable[Device]) -> List[Entry]:
    """The devices for launch.json; ``number`` is [] where the host has no such node now."""
    entries = []
    for device in devices:
        kind, number = "", []
        try:
            status = _status(device.source)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "")
            number = [os.major(status.st_rdev), os.minor(status.st_rdev)] if kind else []
        except OSError as error:
            if error.errno not in _NOT_FOUND:
                raise
        fields = {"source": device.source, "path": device.path, "access": device.access}
        entries.append({**fields, "kind": kind, "number": number})
    return entries


_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EPERM)


def check(devices: Iterable[Device], granted: Iterable[Device] = ()) -> None:
    """Refuse what is no device, or one of the host itself; those ``granted`` may be in use."""
    known = {device.source for device in granted}
    for device in devices:
        examined(device.source, used_by_us=device.source in known)


def examined(source: str, *, used_by_us: bool = False) -> os.stat_result:
    """The node at a path of the host; LaunchError for what no sandbox may have."""
    try:
        status = _status(source)
    except OSError as error:
        if error.errno not in _NOT_FOUND:
            raise
        untrusted = error.errno == errno.EPERM
        hint = "name a path that only root can change" if untrusted else _plug_in(source)
        raise LaunchError(f"devices: {source}: {error.strerror}", hint=hint) from error
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "no device"
        hint = "name device nodes one by one; files and directories are mounted by volumes"
        raise LaunchError(f"devices: {source} is {what}", hint=hint)
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    for number in ((kind, major, minor), (kind, major, None)):
        if number in _OF_THE_HOST:
            problem = f"devices: {source} {_OF_THE_HOST[number]}"
            raise LaunchError(problem, hint=f"no sandbox may have it: {_LEAVE_OUT}")
    if kind == "b" and not used_by_us:
        _require_unused(source, status.st_rdev)
    return status


def _plug_in(source: str) -> str:
    return f"plug it in or load its module until {source} is there, or {_LEAVE_OUT}"


def _status(source: str) -> os.stat_result:
    fd = trusted_path.opened(source)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _require_unused(source: str, number: int) -> None:
    """Refuse a block device that the host has mounted or uses otherwise, whole or in part.

    The kernel tells: it gives no such device to an opener with O_EXCL (open(2)).
    """
    fd = trusted_path.opened(source)
    flags = os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", flags))
    except OSError as error:
        if error.errno == errno.EBUSY:
            problem = f"devices: {source} is in use by the host: mounted, swap or part of a volume"
            hint = "unmount it there, or mount its files by volumes instead"
            raise LaunchError(problem, hint=hint) from error
        # A drive without a medium, or a device without its hardware.
        if error.errno not in (errno.ENXIO, errno.ENOMEDIUM, errno.ENODEV):
            problem = f"devices: {source} can't be opened: {error.strerror}"
            hint = f"a container around this host may forbid it, or the disk fails: {_LEAVE_OUT}"
            raise LaunchError(problem, hint=hint) from error
    finally:
        os.close(fd)


def rules(launch: Mapping[str, Any]) -> List[Rule]:
    own = []
    for each in launch["devices"]:
        major, minor = each["number"]
        own.append(Rule(each["kind"], major, minor, each["access"]))
    return [*device_rules.USUAL, *own]


def restrict(sandbox: SandboxPaths, launch: Mapping[str, Any]) -> None:
    """Let the cgroup of a sandbox open its devices only; without any, what it may by default."""
    directory = device_rules.place(launch["cgroups"])
    if not launch.get("devices"):
        if directory:
            device_rules.allow_everything(directory)
        os.unlink(sandbox.device_rules)
        return
    missing = [each["source"] for each in launch["devices"] if not each["number"]]
    if missing:
        raise LaunchError(f"devices: {missing[0]} is not there", hint=_plug_in(missing[0]))
    if not directory:
        raise LaunchError("devices can't be enforced: no cgroup of the sandbox restricts them")
    with open(sandbox.device_rules, "w", encoding="ascii"):
        pass
    device_rules.allow_only(directory, rules(launch))


def are_restricted(launch: Mapping[str, Any]) -> bool:
    """Whether the rules in force are those of the launch file, which has devices."""
    directory = device_rules.place(launch["cgroups"])
    return bool(directory) and device_rules.are_in_force(directory, rules(launch))
