# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Forks and executes commands inside the sandbox; a pipe that exec closes reports failures."""

from __future__ import annotations

import errno
import fcntl
import os

from ..errors import LaunchError
from ..kernel import confine, elf
from ..kernel.program import PATH
from ..kernel.signals import signal
from . import limits, users
from .memory import TakeOver, retire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Mapping, NoReturn, Optional, Sequence, Tuple

    Failure = Tuple[int, str]

NOT_FOUND = 127
NOT_EXECUTABLE = 126
READ_SIZE = 16384
# The most reads of a full pipe, which an unprivileged process may enlarge to fs.pipe-max-size.
FULL_PIPE_READS = (1 << 20) // READ_SIZE
_MAX_REPORT = 4096
NO_PROCESS = "no more processes are allowed by pids_limit, or by nproc of ulimits"
_TOO_MUCH = (
    "env and arguments are more than the kernel takes: a quarter of the soft limit of the stack in"
    " ulimits, 2 MiB by default and 6 MiB at most"
)
_NO_PROGRAM = "exec format error: no script with a first line of #!, no program for this processor"
# BINPRM_BUF_SIZE and the depth of interpreters of interpreters, in the kernel's fs/exec.c.
_SCRIPT_HEAD, _MAX_INTERPRETERS = 256, 5
_TIOCSCTTY = 0x540E


class Child:
    """A forked process that executes a command; ``report`` is open until that worked or failed."""

    def __init__(self, pid: int, report: Optional[int]) -> None:
        self.pid = pid
        self.report = report
        self.failure: Optional[Failure] = None

    def decided(self) -> bool:
        """Whether exec has succeeded or failed (``failure``); call when ``report`` is readable."""
        if self.report is None:
            return True
        try:
            data = os.read(self.report, _MAX_REPORT)
        except BlockingIOError:
            return False
        retire(self.report)
        self.report = None
        if data:
            code, dummy, text = data.decode("utf-8", "replace").partition(" ")
            self.failure = (int(code), text)
        return True


def fork(clone: Callable[[], int]) -> int:
    """Fork; an error that a limit of the sandbox causes names its option."""
    try:
        return clone()
    except BlockingIOError as error:
        raise OSError(error.errno, NO_PROCESS) from error


def kill(pid: int) -> None:
    """Kill a command and its process group, which it may not have made yet."""
    for kill_some in (os.killpg, os.kill):
        try:
            kill_some(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # it runs as another user, and ends later


def exit_code(wait_status: int) -> int:
    """The exit code as a shell shows it: 0-255, or 128 + the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def spawn(
    clone: Callable[[], int],
    command: Mapping[str, Any],
    stdio: Sequence[int],
    *,
    tty: bool = False,
) -> Child:
    """Run ``command``, init's settings with an argv, on three descriptors; never blocks.

    With a fourth descriptor, a socket, the child first writes a byte to it and waits for one. With
    the operation "files", the child serves files on the first, a socket, in place of a program.
    """
    reader, writer = os.pipe()
    try:
        pid = fork(clone)
    except (OSError, TakeOver):
        os.close(reader)
        os.close(writer)
        raise
    if pid == 0:
        _child(command, stdio, writer, tty=tty)
    os.close(writer)
    os.set_blocking(reader, False)
    return Child(pid, reader)


def _child(command: Mapping[str, Any], stdio: Sequence[int], report: int, *, tty: bool) -> NoReturn:
    code, text = NOT_EXECUTABLE, "preparing the command failed"
    try:
        if len(stdio) > 3:
            _wait(stdio[3])
        login = _prepare(command, stdio, tty=tty)
        if command.get("op") == "files":
            # The zygote has imported the module, so nothing is opened here.
            from . import files

            files.serve(0)
        code, text = execute(command["argv"], {**command["env"], **login})
    except LaunchError as error:
        text = str(error)
    except (OSError, ValueError) as error:
        text = f"{getattr(error, 'strerror', '') or error} (in {command['cwd']})"
    finally:
        # This process must never return into the code of init.
        os.write(report, f"{code} {text}".encode("utf-8", "backslashreplace")[:_MAX_REPORT])
        os._exit(code)


def _prepare(command: Mapping[str, Any], stdio: Sequence[int], *, tty: bool) -> Mapping[str, str]:
    """Take the command's descriptors, user, limits and directory; its login variables."""
    # Init reads signals from a descriptor, for which they are blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Python ignores these two, and exec would pass that on (signal(7)).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.setsid()
    if tty:
        fcntl.ioctl(stdio[0], _TIOCSCTTY, 0)
    duplicates = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio[:3]]
    for target, fd in enumerate(duplicates):
        os.dup2(fd, target)
    login = _switch_user(command["user"]) if command["user"] else {}
    limits.apply(command["rlimits"])
    os.chdir(command["cwd"])
    return {name: text for name, text in login.items() if name in command["login"]}


def _wait(gate: int) -> None:
    """Wait until the peer lets this process go on; the kernel names it to the peer (unix(7))."""
    os.write(gate, b"?")
    if not os.read(gate, 1):
        raise LaunchError("the tracer is gone")


def _switch_user(user: str) -> Mapping[str, str]:
    """Become a user of the sandbox; the variables of its login."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    uid, gid, groups, login = users.resolve(root, user)
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return login
    try:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        # It has the dumpability of fs.suid_dumpable by that (prctl(2)), and values of env.
        confine.prctl(confine.PR_SET_DUMPABLE, 0)
    except PermissionError as error:
        raise LaunchError(
            f"user: {user!r} is not the user of this sandbox",
            hint="grant it capabilities: [SETUID, SETGID], or set its user option",
        ) from error
    return login


def execute(argv: Sequence[str], env: Mapping[str, str]) -> Failure:
    """Call execvpe(3); on failure, the exit code that a shell would use, and the reason."""
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{d or '.'}/{name}" for d in env.get("PATH", PATH).split(":")]
    failure = (NOT_FOUND, f"{name}: command not found")
    for path in candidates:
        try:
            os.execve(path, list(argv), dict(env))
        except OSError as error:
            if error.errno == errno.E2BIG:
                failure = (NOT_EXECUTABLE, f"{path}: {_TOO_MUCH}")
            elif error.errno == errno.ENOEXEC:
                failure = (NOT_EXECUTABLE, f"{path}: {_NO_PROGRAM}")
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = (NOT_EXECUTABLE, f"{path}: {error.strerror}")
            elif error.errno == errno.ENOENT and os.access(path, os.F_OK):
                interpreter = _missing_interpreter(path)
                failure = (NOT_EXECUTABLE, f"{path}: its interpreter {interpreter}is missing")
    return failure


def _missing_interpreter(path: str) -> str:
    """The first interpreter that is missing for a program, quoted; "" if that can't be told."""
    for _depth in range(_MAX_INTERPRETERS):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as stream:
                path = _interpreter(stream)
        except (OSError, elf.NotElf):
            return ""
        if not path or not os.access(path, os.F_OK):
            break
    return f"{path!r} " if path else ""


def _interpreter(stream: BinaryIO) -> str:
    """The interpreter of a script (execve(2)), or the dynamic linker of an ELF program."""
    head = stream.read(_SCRIPT_HEAD)
    if head[:2] == b"#!":
        line = head[2:].split(b"\n", 1)[0].replace(b"\t", b" ").strip(b" ")
        return os.fsdecode(line.split(b" ", 1)[0])
    stream.seek(0)
    return elf.interpreter(stream) or ""
