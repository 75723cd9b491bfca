# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Starts an init: takes the steps that need more rights than init will have.

It runs in two disposable children of the launcher, which free their memory before init runs on. The
builder is host root: it sets up the cgroup and opens files of the host. Its child, the mounter,
mounts the overlay, then the rest of the root as root of the sandbox's user namespace.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from .. import store, wire
from ..errors import LaunchError
from ..init import limits, logs, process, status, users
from ..init.child import NO_PROCESS, NOT_EXECUTABLE, NOT_FOUND
from ..init.supervisor import PREPARATION_SECONDS
from ..kernel import hierarchies, mounts, namespaces, netns
from ..kernel.files import write_value
from ..kernel.fork import STEP_SECONDS
from ..kernel.signals import signal
from ..sandbox import oom, runtime
from . import init_calls, namespace, rootfs, rootplan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Mapping, Optional, Sequence

    from ..kernel.call_table import Table
    from ..site import SandboxPaths
    from .operations import RootOperation

    Pins = Optional[Mapping[str, int]]

SEE_LOG = "see launcher.log in /run/sandlot"
_NO_PROGRAM = "correct the command, or use an image that has it"
# Keys in every launch file; a launch file lists the keys of later options, as ``init``.
INIT_KEYS = ("argv", "env", "cwd", "restart", "stop", "log_max_size")


class StartKit:
    """The launcher's kit for one start: the build namespace, the joiner and a socket to it.

    ``buffer`` is the address at which the joiner receives tables of system calls.
    """

    def __init__(
        self, build_namespace: int, joiner: int, peer: _socket.socket, buffer: int
    ) -> None:
        self.build_namespace = build_namespace
        self.joiner = joiner
        self.peer = peer
        self.buffer = buffer


def descriptors(kits: Iterable[StartKit]) -> list[int]:
    return [fd for kit in kits for fd in (kit.build_namespace, kit.peer.fileno())]


class _Build:
    """The state of one start: the root plan, and the descriptors that it opened on the host."""

    def __init__(
        self, paths: SandboxPaths, launch: Mapping[str, Any], build_namespace: int, own: Pins
    ):
        self.namespace = build_namespace
        self.launch = launch
        self.pins = _open_pins(paths, launch, own)
        self.lxcfs = paths.site.lxcfs
        self.plan: list[RootOperation] = []

    def open(self, shown: list[str]) -> None:
        """Plan the root; ``shown`` are the hierarchies of cgroups that it shows."""
        self.plan = rootplan.plan(self.launch, shown, self.lxcfs)
        for operation in self.plan:
            operation.open(self.pins)


def attach(paths: SandboxPaths, launch: Mapping[str, Any], kit: StartKit) -> None:
    """Move the joiner into the cgroups, before it becomes init.

    The kernel waits for a grace period of RCU at the first move and not at those that follow on it
    (cgroup_attach_lock), so joiners of one batch are moved one right after the other.
    """
    oom.note(paths, launch["cgroups"])
    _restrict_devices(paths, launch)
    for directory in launch["cgroups"]:
        write_value(f"{directory}/cgroup.procs", str(kit.joiner))


def start(
    paths: SandboxPaths,
    launch: Mapping[str, Any],
    kit: StartKit,
    restarts: int,
    own: Pins = None,
) -> None:
    """Start init in its namespaces and return once it has exec'ed the workload.

    The joiner, a clean process that the zygote forked and that is in its cgroups, becomes init.
    ``own`` are descriptors of namespaces that are not pinned.
    """
    peer, joiner = kit.peer, kit.joiner
    preparation = PREPARATION_SECONDS if "first_start" in launch else 0.0
    peer.settimeout(STEP_SECONDS + preparation)
    build = _Build(paths, launch, kit.build_namespace, own)
    build.open(hierarchies.joined(joiner, launch["cgroups"]))
    rlimits = limits.complete(launch["rlimits"])
    limits.raise_hard(joiner, rlimits)
    watched = os.pidfd_open(joiner)
    table = init_calls.joiner(kit.buffer, build.pins)
    _send(peer, table, list(build.pins.values()))
    _await(peer, watched)
    pid = init_pid(peer, table)
    pidfd = os.pidfd_open(pid)
    try:
        # Before init is recorded, so that nobody takes the last init's status for the new one's.
        healthcheck = launch.get("healthcheck")
        descriptors = _descriptors(paths, restarts, "starting" if healthcheck else status.NO_HEALTH)
        _identify(paths, pid, pidfd, launch["digest"])
        _forget_oom_adjustment(pid)
        user, fds = _mount_in_namespaces(build, pid)
        _note_mounts(paths, launch, user.pop("mounts"))
        if os.path.exists(paths.reload):
            os.unlink(paths.reload)  # the workload reads what is there
        opened, sinks = logs.open_sinks(paths)
        config = {**_config(launch), "rlimits": rlimits, "restarts": restarts}
        names = users.login_names(launch)
        login = {name: text for name, text in user["login"].items() if name in names}
        env = {**launch["env"], **login, **_secret_env(paths, launch)}
        config.update(login=names, env=env)
        config["logs"] = opened
        if os.path.exists(paths.held):
            config["held"] = True
        (mnt, *others), named = fds[:3], fds[3:]
        config.update(log_files=len(named), sinks=len(sinks))
        # In the order of the numbers of init/process.py; the first to close is the last one.
        fds = [*others, *descriptors, *named, *sinks, mnt]
        table = init_calls.init(kit.buffer, process.FIRST + len(fds) - 1, launch, user)
        _send(peer, table, fds)
        wire.send_any_size(peer, config, [])
        _expect(peer, "started", table=table)
    except (OSError, LaunchError):
        _abandon(paths, pidfd)
        raise


def _restrict_devices(paths: SandboxPaths, launch: Mapping[str, Any]) -> None:
    """Set the rules of the cgroup before anybody is in it; few sandboxes have or had any."""
    if launch.get("devices") or os.path.exists(paths.device_rules):
        # Imported here, in a process that ends soon: sandboxes share the memory of the launcher.
        from ..sandbox import devices

        devices.restrict(paths, launch)


def _await(peer: _socket.socket, joiner: int) -> None:
    """Wait until the joiner sends or ends; its end does not close the socket, which init shares."""
    select.select([peer.fileno(), joiner], [], [], STEP_SECONDS)
    # In this order, as the joiner may send and end in between.
    dead = bool(select.select([joiner], [], [], 0)[0])
    silent = not select.select([peer], [], [], 0)[0]
    os.close(joiner)
    if silent:
        raise _died() if dead else _no_answer()


def _died() -> LaunchError:
    return LaunchError("init died before it was ready", hint=SEE_LOG)


def _no_answer() -> LaunchError:
    return LaunchError(f"no answer within {STEP_SECONDS:.0f} seconds of the start")


def _config(launch: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a launch file that init gets."""
    config = {key: launch[key] for key in (*INIT_KEYS, *launch.get("init", ()))}
    config.update(user=None, healthcheck=launch.get("healthcheck"))
    return config


def _secret_env(paths: SandboxPaths, launch: Mapping[str, Any]) -> dict[str, str]:
    """Secret variables; their values are for init alone, and this process ends soon."""
    env = {}
    for name, path in launch.get("secret_env", {}).items():
        value = store.read_bytes(path)
        if value is None:
            hint = f"sandlot restart {paths.name} puts it there, or a deploy with its value"
            raise LaunchError(f"env: the value of {name} is not in memory", hint=hint)
        env[name] = os.fsdecode(value)
    return env


def _abandon(paths: SandboxPaths, pidfd: int) -> None:
    """Kill init and write its final status: a failed start is no crash to recover from."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # init reported the failure and ended
    runtime.finish(paths, "crashed", NOT_EXECUTABLE)
    store.remove(paths.init)


def _open_pins(paths: SandboxPaths, launch: Mapping[str, Any], own: Pins) -> dict[str, int]:
    """Descriptors of the namespaces, in the order in which the joiner joins them.

    The user namespace comes last, as joining it gives up the rights over the others (setns(2)). A
    network namespace of another sandbox or program is opened at its own path.
    """
    joined = launch.get("netns")
    kinds = (*(() if joined else ("net",)), "uts", "ipc", "time", "user")
    if own is None:
        own = _open_pinned(paths, kinds)
    pins = {"net": _open_joined(paths.name, joined)} if joined else {}
    return {**pins, **{kind: own[kind] for kind in kinds if kind in own}}


def _open_pinned(paths: SandboxPaths, kinds: Sequence[str]) -> dict[str, int]:
    present = [kind for kind in kinds if namespaces.is_namespace_file(paths.pin(kind))]
    missing = set(kinds) - {"time"} - set(present)
    if missing:
        raise LaunchError(
            f"{paths.name}: namespaces {', '.join(sorted(missing))} are not pinned",
            hint="deploy again, or run 'sandlot start' which creates them",
        )
    own = {k: os.open(paths.pin(k), os.O_RDONLY | os.O_CLOEXEC) for k in present}
    for kind in set(own) - {"user"}:
        if not namespaces.is_owned_by(own[kind], own["user"]):
            raise LaunchError(
                f"{paths.name}: {paths.pin(kind)} is no namespace of this sandbox",
                hint=f"umount {paths.pin(kind)} and deploy again, which makes its own",
            )
    return own


def _open_joined(name: str, joined: Mapping[str, str]) -> int:
    """Open a joined network namespace; ``joined`` has the ``mode`` of the spec and the path."""
    mode, path = joined["mode"], joined["path"]
    try:
        return netns.open_verified(path) if mode == "host" else netns.open_foreign(path)
    except LaunchError as error:
        kind, dummy, partner = mode.partition(":")
        hint = f"start sandbox {partner} first" if kind == "container" else error.hint
        raise LaunchError(f"{name}: network_mode: {error.message}", hint=hint) from error


def _send(peer: _socket.socket, table: Table, fds: list[int]) -> None:
    wire.transmit(peer, table.encoded(len(fds), process.FIRST), fds)


def init_pid(peer: _socket.socket, table: Table) -> int:
    """The pid of init as its joiner tells it."""
    try:
        size = peer.recv_into(bytearray(1), 1, _socket.MSG_PEEK | _socket.MSG_TRUNC)
    except ConnectionResetError:
        raise _died() from None
    if size != init_calls.PID.size:
        _expect(peer, "", table=table)
    pid = int(init_calls.PID.unpack(peer.recv(init_calls.PID.size))[0])
    if pid == -errno.EAGAIN:
        raise LaunchError(f"{table.step}: {NO_PROCESS}", code=errno.EAGAIN)
    if pid < 0:
        raise LaunchError(f"{table.step}: fork: {os.strerror(-pid)}", code=-pid)
    return pid


def _expect(
    peer: _socket.socket, key: str, fds: list[int] | None = None, *, table: Table | None = None
) -> wire.Message:
    """Receive the next message of the joiner, the mounter or init; it has to contain ``key``."""
    try:
        message, received = wire.receive(peer)
    except _socket.timeout as error:
        raise _no_answer() from error
    if fds is None:
        wire.close_all(received)
    else:
        fds += received
    if message is None:
        raise _died()
    if table is not None and "call" in message:
        code = message.get("errno", 0)
        raise LaunchError(table.failure(message["call"], code), code=code)
    if "error" in message or key not in message:
        problem = message.get("error", "init sent something unexpected")
        hint = message.get("hint") or (_NO_PROGRAM if message.get("code") == NOT_FOUND else "")
        raise LaunchError(problem, hint=hint, code=message.get("errno", 0))
    return message


def _identify(paths: SandboxPaths, pid: int, pidfd: int, digest: str) -> None:
    """Record init before anything can run in it, so that no init is ever unknown."""
    started = namespaces.start_time(pid)
    if started is None or namespaces.pidfd_ends(pidfd, 0):
        raise LaunchError("init died before it was ready")
    identity = {"pid": pid, "start_time": started, "boot_id": store.boot_id()}
    record = {**identity, "digest": digest, "since": time.time(), "protocol": runtime.PROTOCOL}
    store.write(paths.init, record, durable=False)


def _note_mounts(paths: SandboxPaths, launch: Mapping[str, Any], ids: str) -> None:
    """Write which mounts the sandbox has; live changes of them write it again."""
    if launch.get("mounts"):
        from ..sandbox import mount_state

        numbers = [int(word) for word in ids.split()]
        entries = zip(launch["mounts"], numbers)
        mount_state.note(
            paths, [mount_state.SandboxMount(entry, number) for entry, number in entries]
        )
    elif os.path.exists(paths.mounts):
        store.remove(paths.mounts)


def _forget_oom_adjustment(pid: int) -> None:
    """Reset oom_score_adj: a launcher's protection from the OOM killer is not for sandboxes."""
    path = f"/proc/{pid}/oom_score_adj"
    with open(path, encoding="ascii") as handle:
        inherited = int(handle.read())
    if inherited < 0:
        write_value(path, "0")


def _descriptors(paths: SandboxPaths, restarts: int, health: str) -> list[int]:
    """Descriptors for init: its listening socket, and its status and health files."""
    listener = wire.listen(paths.socket)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fds = [os.open(path, flags, 0o600) for path in (paths.status, paths.health)]
    for fd in fds:
        os.ftruncate(fd, 0)
    now = time.time()
    first = status.encoded(
        {"state": "starting", "restarts": restarts, "since": now, "health": health}
    )
    os.pwrite(fds[0], first, 0)
    return [listener.detach(), *fds]


def _mount_in_namespaces(build: _Build, pid: int) -> tuple[wire.Message, list[int]]:
    """Fork the mounter into init's pid and cgroup namespaces, which its file systems show.

    The mounter ends before init goes on, so no workload ever sees it.
    """
    for kind in ("cgroup", "pid"):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.FLAGS[kind])
        os.close(fd)
    ours, theirs = wire.pair()
    child = os.fork()
    if child == 0:
        ours.close()
        _mounter(build, theirs)
        os._exit(0)
    theirs.close()
    ours.settimeout(STEP_SECONDS)
    fds: list[int] = []
    try:
        message = _expect(ours, "uid", fds)
    except LaunchError:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        ours.close()
        os.waitpid(child, 0)
    groups = [int(gid) for gid in message["what"].split()]
    ids = {"uid": message["uid"], "gid": message["gid"], "groups": groups}
    login = {name: message[name] for name in wire.LOGIN if name in message}
    return {**ids, "login": login, "mounts": message["mounts"]}, fds


def _mounter(build: _Build, peer: _socket.socket) -> None:
    """Mount the root; answer with the user's ids and descriptors (mounts, /dev/null, /dev/pts)."""
    fds: list[int] = []
    try:
        namespace.enter(build.namespace, build.plan, build.pins)
        _become_sandbox_root(build.pins)
        for operation in build.plan:
            operation.lock()
        root = rootfs.pivot()
        rootplan.apply(build.plan, root)
        fds.append(os.open("proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root))
        fds.append(mounts.openat2(root, "dev/null", os.O_RDWR, rootfs.STRICT))
        fds.append(rootfs.directory(root, "dev/pts"))
        fds += [fd for operation in build.plan for fd in operation.for_init]
        uid, gid, groups, login = users.resolve(root, build.launch["user"])
        what = " ".join(str(number) for number in groups)
        targets = [entry["target"] for entry in build.launch.get("mounts", ())]
        ids = " ".join(str(number) for number in rootfs.mount_ids(root, targets))
        answer = {"uid": uid, "gid": gid, "what": what, "mounts": ids, **login}
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        answer = {"error": f"preparing the root: {error.strerror}{where}", "errno": error.errno}
    except LaunchError as error:
        answer = {"error": error.message, "hint": error.hint}
    # Without a builder to answer to, it ends all the same: it must not go on in the worker's code.
    wire.reply(peer, answer, fds)


def _become_sandbox_root(pins: Mapping[str, int]) -> None:
    """Become root of the sandbox's user namespace, in a mount namespace that it owns.

    unshare(2) keeps the working directory: the merged root, which becomes the sandbox's root.
    """
    for kind in pins:
        if kind != "time":
            namespaces.setns(pins[kind], namespaces.FLAGS[kind])
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0)
    namespaces.unshare(namespaces.CLONE_NEWNS)
