# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs strace on a process of a sandbox, with no more rights than a sandbox could have.

strace parses what a tenant chose. So it runs as root of the sandbox's user namespace, with one
capability there (SYS_PTRACE), the filter of a sandbox that is granted it, no network, and limits.
"""

from __future__ import annotations

import os
import platform
import resource
import select
import shutil
import subprocess
import time
from typing import Callable, Iterator

from ..errors import HostError
from ..kernel import confine, namespaces, processes, program
from ..kernel.signals import signal
from ..security import seccomp
from ..spec.confinement import CAPABILITIES

PROGRAM = "strace"
_PTRACE = CAPABILITIES.index("SYS_PTRACE")
_OPTIONS = ("-f", "-y", "-Z", "-a1", "-s", "256", "-e", "signal=SYS,SEGV,BUS,ILL,FPE,ABRT,KILL")
_MEMORY = 512 << 20
_ATTACHED = b" attached\n"
_ATTACH_SECONDS, _KILL_SECONDS = 10.0, 10.0


def find() -> str:
    """The path of strace; HostError when the host lacks it."""
    path = shutil.which(PROGRAM, path=program.SYSTEM_PATH)
    if path is None:
        raise HostError(
            f"{PROGRAM} is not installed on this host",
            hint=f"install the package {PROGRAM} (apt install {PROGRAM})",
        )
    return path


class Strace:
    """strace attached to a stopped process of the sandbox; its report comes at ``output``."""

    def __init__(self, path: str, pid: int, init: int, seconds: float) -> None:
        self.pid = pid
        user = os.open(f"/proc/{init}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._process = program.start(
                [path, *_OPTIONS, "-p", str(pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PATH": program.SYSTEM_PATH, "LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
                preexec_fn=_confined(user, seconds),
            )
        except subprocess.SubprocessError as error:
            raise HostError(
                f"{PROGRAM} can't be confined: {error}",
                hint="see whether this host lets root make namespaces and load filters",
            ) from error
        finally:
            os.close(user)
        self._guard, self._life = _guarded(self._process.pid)
        stream = self._process.stderr
        self.output = stream.fileno() if stream else -1
        self.first = b""

    def wait_attached(self) -> None:
        """Wait until strace traces the process; HostError with its complaint otherwise."""
        deadline = time.monotonic() + _ATTACH_SECONDS
        poller = select.poll()
        poller.register(self.output, select.POLLIN)
        while _ATTACHED not in self.first:
            left = deadline - time.monotonic()
            data = os.read(self.output, 4096) if poller.poll(max(0.0, left) * 1000) else b""
            if not data:
                text = self.first.decode("utf-8", "replace").strip() or "it does not answer"
                raise HostError(
                    f"{PROGRAM} can't trace the command: {text}",
                    hint="see kernel.yama.ptrace_scope (3 forbids it) and the host's own container",
                )
            self.first += data
        os.set_blocking(self.output, False)

    def end(self) -> None:
        """Kill all that is traced, then strace."""
        try:
            kill_traced(self._process.pid)
            self._process.wait()
            os.write(self._life, b".")
        finally:
            os.close(self._life)
            os.waitpid(self._guard, 0)
            if self._process.stderr:
                self._process.stderr.close()


def _guarded(tracer: int) -> tuple[int, int]:
    """Start a process that ends the trace if this one is killed; its pid, and its end of a pipe.

    A death signal for strace would leave the child by which strace tries out ptrace at its start.
    """
    reader, life = os.pipe()
    guard = os.fork()
    if guard:
        os.close(reader)
        return guard, life
    try:
        os.close(life)
        os.setsid()
        if not os.read(reader, 1):
            kill_traced(tracer)
    finally:
        os._exit(0)


def kill_traced(tracer: int) -> None:
    """Kill all that a tracer, the leader of its group, traces; then the group.

    While the tracer is stopped, no traced process gets past a fork, so none escapes by forking. A
    killed process waits for its tracer once more, at its exit, and ends with it.
    """
    killed = {0}
    try:
        os.kill(tracer, signal.SIGSTOP)
        deadline = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < deadline:
            traced = {pid for pid in _processes() if traced_by(pid) == tracer}
            if traced <= killed:
                break
            for pid in traced - killed:
                processes.send_signal(pid, signal.SIGKILL, lambda pid: traced_by(pid) == tracer)
            killed |= traced
        os.killpg(tracer, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended


def _processes() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def traced_by(pid: int) -> int:
    """The tracer of a process, 0 when there is none."""
    return int(processes.status(pid).get("TracerPid", "0"))


def _confined(user: int, seconds: float) -> Callable[[], None]:
    """The function that gives up all rights but the tracing of this sandbox, in the child."""
    filtered = seccomp.program(capabilities=["SYS_PTRACE"], machine=platform.machine())
    dropped = [number for number in range(confine.last_capability() + 1) if number != _PTRACE]

    def confined() -> None:
        namespaces.unshare(
            namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
        )
        namespaces.setns(user, namespaces.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        confine.new_session_keyring()
        confine.drop_bounding(dropped)
        confine.set_capabilities(1 << _PTRACE, 1 << _PTRACE, 0)
        for limit, value in _limits(seconds).items():
            resource.setrlimit(limit, (value, value))
        confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
        if filtered is not None:
            confine.load_seccomp(filtered)

    return confined


def _limits(seconds: float) -> dict[int, int]:
    return {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_AS: _MEMORY,
        resource.RLIMIT_CPU: int(seconds) + 30,
    }
