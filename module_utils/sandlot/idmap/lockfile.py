# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Takes the locks that useradd and similar programs take around /etc/subuid and /etc/subgid.

shadow first takes glibc's lckpwdf(3) lock, an fcntl lock on /etc/.pwd.lock, and then tries the
lock file FILE.lock only once, so both are needed for a concurrent useradd to wait and not to
fail. FILE.lock is a hard link to a file that holds the owner's pid. A missing .pwd.lock is not
created: it could never be removed safely, and FILE.lock alone already protects the lines.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from typing import Iterator

from ..errors import ForeignError
from ..kernel import flock
from ..kernel.files import names
from ..kernel.namespaces import pidfd_ends

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02


def temporary(path: str) -> str:
    """A name for a temporary file; its pid lets a later run remove files of dead processes."""
    return f"{path}.sandlot.{os.getpid()}"


@contextlib.contextmanager
def locked(path: str, *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold both locks of one id file."""
    deadline = time.monotonic() + wait
    with _password_lock(os.path.dirname(path), deadline):
        lock = f"{path}.lock"
        while not _link(path, lock):
            if not _break_stale(lock):
                _pause(deadline, lock, f"when no useradd or the like is running, remove {lock}")
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lock)


@contextlib.contextmanager
def _password_lock(etc: str, deadline: float) -> Iterator[None]:
    path = f"{etc}/.pwd.lock"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield
        return
    try:
        while not _try_fcntl(fd):
            _pause(deadline, path, "let it finish, or end it: the lock goes with its process")
        yield
    finally:
        os.close(fd)


def _try_fcntl(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _link(path: str, lock: str) -> bool:
    """Link the lock into place, complete with its pid; False when another process holds it."""
    source = temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(source)
    fd = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"%d\0" % os.getpid())
        with _directory_lock(lock):
            os.link(source, lock)
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(source)
    return True


def _break_stale(lock: str) -> bool:
    """Remove the lock of a dead process."""
    with _directory_lock(lock):
        if not _is_stale(lock):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)
        return True


@contextlib.contextmanager
def _directory_lock(lock: str) -> Iterator[None]:
    """Lock the directory against other runs: one could remove a lock that we have just taken."""
    directory = os.open(os.path.dirname(lock), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock.take(directory)
        yield
    finally:
        os.close(directory)


def holder(lock: str) -> int | None:
    """The pid in a lock file; None when the file is missing or has no pid."""
    try:
        with open(lock, "rb") as handle:
            text = handle.read(32).rstrip(b"\0\n ")
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None


def _is_stale(lock: str) -> bool:
    pid = holder(lock)
    # Our own pid in a lock that we did not take is that of an earlier process, before a reboot.
    return pid is not None and (pid == os.getpid() or not _alive(pid))


def _alive(pid: int) -> bool:
    """Whether a process runs; a zombie is dead, although kill(2) still finds it."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        # EINVAL: a thread, or no pid at all as 0 is.
        return error.errno != errno.ESRCH and pid > 0
    try:
        return not pidfd_ends(fd, 0)
    finally:
        os.close(fd)


def _pause(deadline: float, lock: str, hint: str) -> None:
    if time.monotonic() >= deadline:
        pid = holder(lock)
        by = f"process {pid}" if pid else "another process"
        raise ForeignError(f"{by} holds {lock} and did not release it in time", hint=hint)
    time.sleep(POLL_SECONDS)


def stale_files(path: str, target: str) -> Iterator[str]:
    """Files that dead processes left next to an id file: our temporary files, and the lock."""
    if _is_stale(f"{path}.lock"):
        yield f"{path}.lock"
    for file in dict.fromkeys((path, target)):
        directory, base = os.path.split(file)
        pattern = re.compile(re.escape(base) + r"\.sandlot\.(\d+)")
        for name in names(directory):
            match = pattern.fullmatch(name)
            if match and not _alive(int(match[1])):
                yield f"{directory}/{name}"
