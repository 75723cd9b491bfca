# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Explains errors of the operating system to users."""

from __future__ import annotations

import errno

from .errors import HostError

_AGAIN = "run again: it continues where it stopped"
_SPACE = f"free space and inodes there (df, df -i), then {_AGAIN}"
_DISK = f"the disk or its file system fails (see dmesg): repair it, then {_AGAIN}"
_DENIED = (
    "an immutable file (lsattr), a security module or a container around this host forbids it:"
    f" allow it, then {_AGAIN}"
)
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EIO: _DISK,
    errno.EROFS: f"mount the file system read-write, then {_AGAIN}",
    errno.EPERM: _DENIED,
    errno.EACCES: _DENIED,
    errno.EINTR: f"find what changes it (ip monitor), then {_AGAIN}",
    errno.ENOMEM: f"free memory or raise the limit of the session (free, ulimit -a), then {_AGAIN}",
    errno.EAGAIN: f"raise the limit of processes (ulimit -u, pids.max), then {_AGAIN}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n), then {_AGAIN}",
    errno.ENFILE: f"raise the limit of open files (sysctl fs.file-max), then {_AGAIN}",
}


def remedy(code: int | None) -> str:
    return _REMEDIES.get(code or 0, f"remove the cause, then {_AGAIN}")


def text(error: OSError) -> str:
    """The path, if the error has one, and the problem."""
    problem = error.strerror or str(error) or type(error).__name__
    # The number of a descriptor in place of a path means nothing to users.
    return f"{error.filename}: {problem}" if isinstance(error.filename, str) else problem


def explained(error: OSError, what: str = "") -> HostError:
    """Explain an error; ``what`` names the failed action, "" if the path says enough."""
    message = f"{what}: {text(error)}" if what else text(error)
    return HostError(message, hint=remedy(error.errno))
