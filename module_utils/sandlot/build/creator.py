# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Creates a sandbox's user, net, uts, ipc and time namespaces, pinned in its run directory.

Runs in a disposable child of the launcher. The namespaces are unshared by a grandchild that has
taken the sandbox's own uid, so the kernel charges its per-user limits to that uid
(user_namespaces(7), "limits" in namespaces(7)).
"""

from __future__ import annotations

import os
from functools import partial

from ..errors import LaunchError, SpecError
from ..kernel import confine, linkflags, mounts, namespaces
from ..kernel.files import write_value
from ..kernel.fork import Held
from ..sandbox import runtime
from ..site import PINNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Sequence

    from ..site import SandboxPaths


def create(paths: SandboxPaths, launch: Mapping[str, Any]) -> None:
    """Make and pin the namespaces of a launch file, unless all its pins exist."""
    kinds = _kinds(launch)
    if runtime.pinned(paths) == set(kinds):
        return
    destroy(paths)
    os.makedirs(paths.pins, mode=0o700, exist_ok=True)
    with _held(launch, kinds) as pid:
        # Pins come last, so that complete pins mean complete namespaces.
        for kind, source in _set_up(pid, launch, kinds).items():
            target = paths.pin(kind)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(target, flags, 0o600))
            mounts.mount(source, target, flags=mounts.MS_BIND)


def opened(launch: Mapping[str, Any]) -> dict[str, int]:
    """Make the namespaces of a job; descriptors, as no pin keeps them beyond its processes."""
    kinds, flags = _kinds(launch), os.O_RDONLY | os.O_CLOEXEC
    with _held(launch, kinds) as pid:
        sources = _set_up(pid, launch, kinds)
        return {kind: os.open(source, flags) for kind, source in sources.items()}


def _kinds(launch: Mapping[str, Any]) -> list[str]:
    left_out = {"net": bool(launch.get("netns")), "time": not launch["time_offset"]}
    return [kind for kind in PINNED if not left_out.get(kind)]


def _held(launch: Mapping[str, Any], kinds: Sequence[str]) -> Held:
    """A process that makes the namespaces and keeps them."""
    return Held(partial(_unshare_as, launch["ids"], kinds), "making the namespaces")


def _set_up(pid: int, launch: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, str]:
    """Set up the namespaces of a process; the files of procfs that lead to them."""
    ids = launch["ids"]
    write_value(f"/proc/{pid}/uid_map", f"0 {ids['uid']} {ids['size']}")
    write_value(f"/proc/{pid}/gid_map", f"0 {ids['gid']} {ids['size']}")
    for clock, seconds in (launch["time_offset"] or {}).items():
        whole_seconds = int(seconds // 1)
        nanoseconds = int(round((seconds - whole_seconds) * 1_000_000_000))
        write_value(f"/proc/{pid}/timens_offsets", f"{clock} {whole_seconds} {nanoseconds}")
    _configure(pid, launch, kinds)
    # time_namespaces(7): the caller of unshare stays outside; its children are inside.
    names = {kind: "time_for_children" if kind == "time" else kind for kind in kinds}
    return {kind: f"/proc/{pid}/ns/{name}" for kind, name in names.items()}


def _unshare_as(ids: Mapping[str, int], kinds: Sequence[str]) -> None:
    """Become the sandbox's uid, keep the capability to unshare, unshare; the grandchild's work."""
    confine.prctl(confine.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(ids["gid"], ids["gid"], ids["gid"])
    os.setresuid(ids["uid"], ids["uid"], ids["uid"])
    confine.set_capabilities(1 << confine.CAP_SYS_ADMIN, 1 << confine.CAP_SYS_ADMIN, 0)
    flags = 0
    for kind in kinds:
        flags |= namespaces.FLAGS[kind]
    namespaces.unshare(flags)


def _configure(pid: int, launch: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Host name, lo and sysctls, set by host root from inside the net, uts and ipc namespaces."""
    for kind in set(kinds) & {"net", "uts", "ipc"}:
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.FLAGS[kind])
        os.close(fd)
    namespaces.set_hostname(launch["hostname"])
    if "net" in kinds:
        linkflags.change("lo", up=True)
    for key, value in launch["sysctls"].items():
        _set_sysctl(key, str(value), launch["ids"]["uid"])


def _set_sysctl(key: str, value: str, owner: int) -> None:
    path = "/proc/sys/" + key.replace(".", "/")
    try:
        try:
            write_value(path, value)
        except PermissionError:
            _write_as(owner, path, value)
    except FileNotFoundError as error:
        problem = "does not exist in a sandbox of this kernel"
        raise SpecError("sysctls", key, problem, hint="correct its name or leave it out") from error
    except OSError as error:
        problem = f"can't be set to {value!r}: {error.strerror}"
        raise SpecError("sysctls", key, problem, hint="correct the value") from error


def _write_as(uid: int, path: str, value: str) -> None:
    """Write a sysctl as ``uid``: on newer kernels, only its owner may change an ipc namespace."""
    os.seteuid(uid)
    try:
        write_value(path, value)
    finally:
        os.seteuid(0)


def destroy(paths: SandboxPaths) -> None:
    """Unpin every namespace, also pins that an interrupted run mounted twice."""
    if runtime.running(paths) is not None:
        raise LaunchError(
            f"{paths.name} runs in the namespaces that are to be removed", hint="stop it first"
        )
    for kind in PINNED:
        target = paths.pin(kind)
        while namespaces.is_namespace_file(target):
            mounts.umount(target)
        try:
            os.unlink(target)
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            os.rmdir(target)  # somebody replaced the pin
