# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Start: everything around an init that has to be done with more rights than init will have.

Runs in disposable children of the launcher, so that the memory they touch is gone when init runs:
the builder (host root: overlay, cgroup, descriptors) and its child, the mounter (root of the
sandbox's user namespace: pivot_root and the mounts inside).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any, Mapping

from .. import store
from ..errors import LaunchError
from ..init import limits
from ..kernel import mounts, namespaces
from ..kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)
from ..paths import PINNED, SandboxPaths
from . import protocol, rootfs, users

_READ_ONLY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
STATUS_SIZE = 512
_INIT_KEYS = (
    "argv",
    "env",
    "cwd",
    "capabilities",
    "seccomp",
    "restart",
    "stop",
    "log_max_size",
)


@dataclass(frozen=True)
class _Build:
    """One start: the plan, the way to the joiner, and what was opened on the host for it."""

    launch: Mapping[str, Any]
    peer: socket.socket
    pins: Mapping[str, int]
    merged: str
    devices: Mapping[str, int]
    files: Mapping[str, int]


def start(
    paths: SandboxPaths, launch: Mapping[str, Any], peer: socket.socket, joiner: int, restarts: int
) -> int:
    """Bring up init in the pinned namespaces; returns its pid once the workload was exec'ed.

    ``peer`` leads to the joiner, the clean process that becomes init.
    """
    build = _prepare(paths, launch, peer)
    for directory in launch["cgroups"]:
        _write(f"{directory}/cgroup.procs", str(joiner))
    rlimits = limits.complete(launch["rlimits"])
    pins = {"kinds": list(build.pins), "rlimits": rlimits}
    protocol.send(peer, pins, list(build.pins.values()))
    pid = _expect(peer, "pid")
    try:
        _identify(paths, pid, launch["digest"])
        _forget_oom_adjustment(pid)
        _mount_in_pid_namespace(build, pid, _descriptors(paths, restarts))
        _expect(peer, "started")
    except (OSError, LaunchError):
        _abandon(paths, pid)
        raise
    return pid


def _abandon(paths: SandboxPaths, pid: int) -> None:
    """A start that failed leaves no init, and none that a launcher would think had crashed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it reported the failure and went
    store.remove(paths.init)


def _prepare(paths: SandboxPaths, launch: Mapping[str, Any], peer: socket.socket) -> _Build:
    pins = _open_pins(paths)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount("none", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    merged = _stage(paths, launch, pins["user"])
    devices = {name: _device(name, number) for name, number in rootfs.DEVICES.items()}
    files = {path: _file(source) for path, source in launch["files"].items()}
    return _Build(launch, peer, pins, merged, devices, files)


def _open_pins(paths: SandboxPaths) -> dict[str, int]:
    """Descriptors of the pinned namespaces, in the order in which they have to be joined.

    User comes last: joining it gives up the rights over the others (setns(2)).
    """
    kinds = [k for k in ("net", "uts", "ipc", "time", "user") if k in PINNED]
    present = [k for k in kinds if namespaces.is_namespace_file(paths.pin(k))]
    missing = {"net", "uts", "ipc", "user"} - set(present)
    if missing:
        raise LaunchError(
            f"{paths.name}: namespaces {', '.join(sorted(missing))} are not pinned",
            hint="deploy again, or run 'sandlot start' which creates them",
        )
    return {k: os.open(paths.pin(k), os.O_RDONLY | os.O_CLOEXEC) for k in present}


def _stage(paths: SandboxPaths, launch: Mapping[str, Any], userns: int) -> str:
    """Mount the sandbox's overlay in our private mount namespace; returns its path.

    Mounted by host root, so overlayfs keeps its attributes in trusted.* where no tenant reaches
    them; the shared image is id-mapped to the sandbox's range instead of copied.
    """
    stage = f"{paths.run}/root"
    os.makedirs(stage, mode=0o700, exist_ok=True)
    mounts.mount("tmpfs", stage, "tmpfs", data="mode=755,size=64k")
    for name in ("lower", "merged"):
        os.mkdir(f"{stage}/{name}")
    lower = mounts.clone_tree(launch["lower"])
    mounts.set_attributes(lower, _READ_ONLY, userns=userns if launch["idmap"] else None)
    mounts.attach(lower, f"{stage}/lower")
    os.close(lower)
    layers = f"lowerdir={stage}/lower,upperdir={launch['upper']},workdir={launch['work']}"
    flags = mounts.MS_NODEV | mounts.MS_NOSUID
    mounts.mount("overlay", f"{stage}/merged", "overlay", flags, f"{layers},index=off,metacopy=off")
    return f"{stage}/merged"


def _device(name: str, number: tuple[int, int]) -> int:
    """A detached mount of a host device, verified by number: a swapped node is not passed on."""
    fd = mounts.clone_tree(f"/dev/{name}")
    if os.fstat(fd).st_rdev != os.makedev(*number):
        raise LaunchError(f"/dev/{name} on the host is not device {number[0]}:{number[1]}")
    return fd


def _file(source: str) -> int:
    fd = mounts.clone_tree(source)
    mounts.set_attributes(fd, _READ_ONLY | MOUNT_ATTR_NOEXEC)
    return fd


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _expect(peer: socket.socket, key: str) -> int:
    """The value under ``key`` in the next message of the joiner or init; LaunchError otherwise."""
    message, _ = protocol.receive(peer)
    if message is None:
        raise LaunchError("init died before it was ready", hint="see launcher.log in /run/sandlot")
    if "error" in message:
        raise LaunchError(message["error"], hint=message.get("hint", ""))
    return int(message[key])


def _identify(paths: SandboxPaths, pid: int, digest: str) -> None:
    """Record init before anything can run in it, so that no init is ever unknown."""
    identity = {"pid": pid, "start_time": namespaces.start_time(pid), "boot_id": store.boot_id()}
    record = {**identity, "digest": digest, "since": time.time()}
    store.write(paths.init, record, durable=False)


def _forget_oom_adjustment(pid: int) -> None:
    """A launcher protected from the OOM killer must not protect its sandboxes."""
    path = f"/proc/{pid}/oom_score_adj"
    with open(path, encoding="ascii") as handle:
        inherited = int(handle.read())
    if inherited < 0:
        _write(path, "0")


def _descriptors(paths: SandboxPaths, restarts: int) -> list[int]:
    """What init holds of the host: its listener, the log ring and its status file."""
    listener = protocol.listen(paths.socket)
    logs = [
        os.open(p, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600) for p in paths.logs
    ]
    status = os.open(paths.status, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    first = store.json_bytes({"state": "starting", "restarts": restarts, "since": time.time()})
    os.pwrite(status, first.ljust(STATUS_SIZE), 0)
    return [listener.detach(), *logs, status]


def _mount_in_pid_namespace(build: _Build, pid: int, descriptors: list[int]) -> None:
    """Fork the mounter into init's pid namespace, as procfs shows its mounter's; await its word."""
    pidns = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    namespaces.setns(pidns, namespaces.CLONE_NEWPID)
    ours, theirs = protocol.pair()
    child = os.fork()
    if child == 0:
        ours.close()
        protocol.send(theirs, _mounter(build, descriptors))
        os._exit(0)
    theirs.close()
    try:
        _expect(ours, "mounted")
    finally:
        ours.close()
        os.waitpid(child, 0)


def _mounter(build: _Build, descriptors: list[int]) -> protocol.Message:
    try:
        _enter(build.merged, build.pins)
        _mount_and_hand_over(build, descriptors)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return {"error": f"preparing the root: {error.strerror}{where}"}
    except LaunchError as error:
        return {"error": error.message, "hint": error.hint}
    return {"mounted": 1}


def _enter(merged: str, pins: Mapping[str, int]) -> None:
    """Become root of the sandbox's user namespace, standing in the staged root.

    The working directory is how the staged mount is found again in the new mount namespace: the
    path to it is closed to the sandbox's uid, and unshare(2) carries the directory over.
    """
    os.chdir(merged)
    for kind in pins:
        if kind != "time":
            namespaces.setns(pins[kind], namespaces.FLAGS[kind])
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0)
    namespaces.unshare(namespaces.CLONE_NEWNS)


def _mount_and_hand_over(build: _Build, descriptors: list[int]) -> None:
    launch = build.launch
    root = rootfs.pivot()
    pts = rootfs.populate(root, launch, build.devices)
    rootfs.bind_files(root, build.files)
    os.close(rootfs.directory(root, launch["cwd"], follow=True))
    uid, gid, groups = users.resolve(root, launch["user"])
    if launch["read_only"]:
        mounts.set_attributes(root, MOUNT_ATTR_RDONLY)
    rootfs.detach_old_root(root)
    mnt = os.open("proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    null = os.open("dev/null", os.O_RDWR | os.O_CLOEXEC, dir_fd=root)
    config = {key: launch[key] for key in _INIT_KEYS}
    config.update(uid=uid, gid=gid, groups=groups, rlimits=limits.complete(launch["rlimits"]))
    protocol.send(build.peer, config, [mnt, null, pts, *descriptors])
