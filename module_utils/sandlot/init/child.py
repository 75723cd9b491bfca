# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Fork and exec inside the sandbox; failures travel back through a pipe that exec closes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import termios
from typing import Any, Mapping, NoReturn, Optional, Sequence

from ..errors import LaunchError
from ..launcher import users
from . import limits

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_REPORT = 4096


class Child:
    """A forked process that is about to exec, or has."""

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self.report: Optional[int] = report

    def outcome(self) -> Mapping[str, Any] | None:
        """{} once exec succeeded, {"error", "code"} when it failed, None while undecided."""
        if self.report is None:
            return {}
        try:
            data = os.read(self.report, _MAX_REPORT)
        except BlockingIOError:
            return None
        os.close(self.report)
        self.report = None
        return dict(json.loads(data)) if data else {}


def spawn(command: Mapping[str, Any], stdio: Sequence[int], *, tty: bool = False) -> Child:
    """Run ``command`` (argv, env, cwd, user or None) on three descriptors; never blocks."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(command, stdio, writer, tty=tty)
    os.close(writer)
    os.set_blocking(reader, False)
    return Child(pid, reader)


def _child(command: Mapping[str, Any], stdio: Sequence[int], report: int, *, tty: bool) -> NoReturn:
    try:
        _prepare(command, stdio, tty=tty)
        failure = execute(command["argv"], command["env"])
    except LaunchError as error:
        failure = (NOT_EXECUTABLE, str(error))
    except OSError as error:
        failure = (NOT_EXECUTABLE, f"{error.strerror} ({error.filename or command['cwd']})")
    code, text = failure
    os.write(report, json.dumps({"code": code, "error": text}).encode()[:_MAX_REPORT])
    os._exit(code)


def _prepare(command: Mapping[str, Any], stdio: Sequence[int], *, tty: bool) -> None:
    signal.set_wakeup_fd(-1)
    # Python ignores these two; exec would pass that on (signal(7)).
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    os.setsid()
    if tty:
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    duplicates = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for target, fd in enumerate(duplicates):
        os.dup2(fd, target)
    if command.get("user"):
        _switch_user(command["user"])
    limits.apply(command["rlimits"])
    os.chdir(command["cwd"])


def _switch_user(user: str) -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    uid, gid, groups = users.resolve(root, user)
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return
    try:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError as error:
        raise LaunchError(
            f"user: {user!r} is not the user of this sandbox",
            hint="grant it capabilities: [SETUID, SETGID], or set its user option",
        ) from error


def execute(argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """execvpe(3); returns only on failure, with the exit code a shell would use and the reason."""
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{d or '.'}/{name}" for d in env.get("PATH", _DEFAULT_PATH).split(":")]
    failure = (NOT_FOUND, f"{name}: command not found")
    for path in candidates:
        try:
            os.execve(path, list(argv), dict(env))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = (NOT_EXECUTABLE, f"{path}: {error.strerror}")
    return failure
