# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the state of sandboxes from the kernel and runtime files; without locks or requests."""

from __future__ import annotations

import os
import time

from .. import store
from ..errors import LaunchError, StateError
from ..init.policy import LONGEST_DELAY
from ..init.status import encoded
from ..kernel import namespaces
from ..kernel.files import directories
from ..kernel.signals import signal
from ..site import PINNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

    from ..site import SandboxPaths, Site

# The version of the protocol between host and init (wire.py). An init runs on with old code. Both
# sides ignore unknown keys, so new keys need no new number.
PROTOCOL = 1
# How long an init may take to end after it has written its final status.
_ENDING = 2.0
KILLED = 128 + int(signal.SIGKILL)
# Init rewrites its status in place, so a reader may see half of it and has to try again.
_TORN_READS = 10
_STATUS_MAX = 4096
# Init notes "since" a moment after the kernel notes the start; clock adjustments are smaller too.
_STARTING = 1.0
_STATES = frozenset(
    ("starting", "running", "backoff", "crash-loop", "stopping", "stopped", "exited", "crashed")
)
# A run that follows on two that ended counts as stable after the longest pause between restarts.
_STABLE = LONGEST_DELAY
# States of a sandbox that is to run, after its workload has ended by itself.
ENDED = frozenset(("exited", "crashed", "backoff", "crash-loop", "restarting"))
_HEALTH = frozenset(("starting", "healthy", "unhealthy"))
_NUMBERS = ("pid", "since", "restarts", "exit_code", "lost_log_bytes")
_MAX_SIGNAL = 64


class Running:
    """A live init; pid and start time identify it within one boot."""

    __slots__ = ("pid", "start_time", "digest", "since", "protocol")

    def __init__(
        self, pid: int, start_time: int, digest: str, since: float, protocol: int = PROTOCOL
    ) -> None:
        self.pid = pid
        self.start_time = start_time
        self.digest = digest
        self.since = since
        self.protocol = protocol


def running(sandbox: SandboxPaths) -> Running | None:
    """The sandbox's init; None when it is dead, also when its pid has been reused."""
    init = last_started(sandbox)
    alive = init is not None and namespaces.start_time(init.pid) == init.start_time
    return init if alive else None


def settled(sandbox: SandboxPaths) -> Running | None:
    """The sandbox's init, after a wait for one that is about to end."""
    init = running(sandbox)
    if init is None or not status(sandbox).get("final"):
        return init
    return None if has_ended(init, _ENDING) else init


def has_ended(init: Running, patience: float) -> bool:
    """Whether an init has ended, or does so within some seconds."""
    try:
        pidfd = os.pidfd_open(init.pid)
    except ProcessLookupError:
        return True
    try:
        if namespaces.start_time(init.pid) != init.start_time:
            return True
        return namespaces.pidfd_ends(pidfd, patience)
    finally:
        os.close(pidfd)


def succeeded(sandbox: SandboxPaths) -> str | None:
    """The digest of a workload that ended by itself with exit code 0 in this boot, else None."""
    init, last = last_started(sandbox), status(sandbox)
    ended = init is not None and last.get("final") and last.get("state") == "exited"
    return init.digest if init and ended and last.get("exit_code") == 0 else None


def check_protocol(name: str, running: Running) -> None:
    """Refuse to talk to an init with a newer protocol version."""
    if running.protocol > PROTOCOL:
        raise StateError(
            f"init of {name} speaks protocol {running.protocol}, this sandlot knows {PROTOCOL}",
            hint="restart the sandbox, or install the version of sandlot that started it",
        )


def last_started(sandbox: SandboxPaths) -> Running | None:
    """The last init that was started, dead or alive; None if none was in this boot."""
    path = sandbox.init
    hint = f"remove {path}, and run again: the sandbox is restarted"
    data = store.read(path, hint=hint)
    if data is None:
        return None
    try:
        pid, started, boot_id = int(data["pid"]), data["start_time"], data["boot_id"]
        # No process starts at -1, so an init with an unknown start counts as dead.
        started = started if isinstance(started, int) else -1
        # The first version wrote no protocol version.
        spoken = int(data.get("protocol", 1))
        init = Running(pid, started, str(data["digest"]), float(data["since"]), spoken)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} names no process", hint=hint) from error
    return init if boot_id == store.boot_id() else None


def open_init(sandbox: SandboxPaths) -> int | None:
    """A pidfd of the sandbox's init, None when it does not run."""
    init = running(sandbox)
    if init is None:
        return None
    try:
        pidfd = os.pidfd_open(init.pid)
    except ProcessLookupError:
        return None
    # The pid may have been reused between the two looks.
    if namespaces.start_time(init.pid) == init.start_time:
        return pidfd
    os.close(pidfd)
    return None


def status(sandbox: SandboxPaths) -> dict[str, Any]:
    """The workload's status as init wrote it; {} before the first start or if it is nonsense.

    Keys: state (starting, running, backoff, crash-loop, stopping, stopped, exited, crashed), pid
    (inside), since, restarts, exit_code, signal (which ended the last run), final (init has ended
    on purpose), lost_log_bytes; with a healthcheck health (starting, healthy, unhealthy) and
    failing_streak. Init is no more trusted than its workload, so every value is checked.
    """
    for dummy in range(_TORN_READS):
        try:
            return _checked(store.read_bytes(sandbox.status, limit=_STATUS_MAX))
        except StateError:
            return {}
        except (ValueError, RecursionError):
            continue
    return {}


def _checked(raw: bytes | None) -> dict[str, Any]:
    import json

    data = json.loads(raw or b"{}")
    if not isinstance(data, dict):
        return {}
    values = {key: data[key] for key in _NUMBERS if _is_number(data.get(key))}
    state = data.get("state")
    if isinstance(state, str) and state in _STATES:
        values["state"] = state
    health, streak = data.get("health"), data.get("failing_streak")
    if isinstance(health, str) and health in _HEALTH and data.get("final") is not True:
        values.update(health=health, failing_streak=streak if _is_number(streak) else 0)
    number = data.get("signal")
    if isinstance(number, int) and _is_number(number) and 0 < number <= _MAX_SIGNAL:
        values["signal"] = number
    if data.get("final") is True:
        values["final"] = True
    return values


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1 << 62  # type: ignore[operator]


def finish(paths: SandboxPaths, state: str, exit_code: int = KILLED) -> None:
    """Write the final status of an init that was killed before it wrote one."""
    values = status(paths)
    if not os.path.exists(paths.status) or values.get("final"):
        return
    values.update(state=state, final=True)
    if "exit_code" not in values:
        values.update(exit_code=exit_code, signal=max(0, exit_code - 128))
    store.replace(paths.status, encoded(values), durable=False)


def state(phase: str, wanted: str, running: Running | None, status: Mapping[str, Any]) -> str:
    """The workload's state: "created" if never started, "down" if not since the host's boot.

    A workload that runs again after two ends or more is "restarting" for its first minute.
    """
    if phase == "removing":
        return phase
    if running:
        present = str(status.get("state", "starting"))
        unstable = present == "running" and status.get("restarts", 0) > 1
        return "restarting" if unstable and uptime(running, status) < _STABLE else present
    if not status:
        return "created" if wanted == "stopped" else "down"
    if wanted == "stopped" or not status.get("final"):
        return "stopped" if wanted == "stopped" else "crashed"
    return "stopped" if status.get("state") == "stopped" else "exited"


def uptime(running: Running, status: Mapping[str, Any]) -> float:
    """Seconds since the workload's state last changed.

    If the host's clock was set meanwhile, the age of init by the kernel's clock instead.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - running.start_time / ticks
    seconds = time.time() - float(status.get("since", running.since))
    return round(seconds if 0 <= seconds <= age + _STARTING else max(0.0, age), 1)


def pinned(sandbox: SandboxPaths) -> set[str]:
    """Kinds of namespaces that are pinned for the sandbox; a foreign namespace does not count.

    With the host's network namespace mounted over a pin, a run would change the host's network.
    """
    own = os.stat("/proc/self/ns/user")
    pins = ((kind, sandbox.pin(kind)) for kind in PINNED)
    kinds = {kind for kind, pin in pins if namespaces.is_namespace_file(pin, own.st_dev)}
    if "user" not in kinds:
        return kinds
    user = os.open(sandbox.pin("user"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(user).st_ino == own.st_ino:
            return kinds - {"user"} or kinds
        others = kinds - {"user"}
        return kinds - {kind for kind in others if not _is_owned(sandbox.pin(kind), user)}
    finally:
        os.close(user)


def _is_owned(pin: str, user: int) -> bool:
    fd = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return namespaces.is_owned_by(fd, user)
    finally:
        os.close(fd)


def explained(sandbox: SandboxPaths, operation: str, error: OSError) -> LaunchError:
    """An error of an operation on the sandbox; its number leads to the remedy."""
    where = f" ({error.filename})" if error.filename else ""
    message = f"{sandbox.name}: {operation}: {error.strerror or error}{where}"
    return LaunchError(message, code=error.errno or 0)


def names(site: Site) -> list[str]:
    """Names with a runtime directory, whether or not a record knows them."""
    # No sandbox's name begins with a dot; such entries belong to the image store.
    return [name for name in directories(site.run) if not name.startswith(".")]
