# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Opens a path of the host that nobody but root can lead elsewhere."""

from __future__ import annotations

import errno
import os
import stat

_MAX_LINKS = 40  # as path_resolution(7)
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def opened(path: str) -> int:
    """A descriptor (O_PATH) of what is at an absolute path.

    Links are followed where only root could have made them. PermissionError for a path that
    another user can change: it could lead elsewhere at any time.
    """
    current = os.open("/", _NODE)
    parts, links = path.split("/")[::-1], _MAX_LINKS
    try:
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            node = os.open(part, _NODE, dir_fd=current)
            try:
                _require_of_root(current, node, path)
            except OSError:
                os.close(node)
                raise
            if stat.S_ISLNK(os.fstat(node).st_mode):
                target = _target(node)
                links -= 1
                if not links:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                parts += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                node = os.open("/", _NODE)
            os.close(current)
            current = node
    except OSError as error:
        os.close(current)
        error.filename = path
        raise
    return current


def _target(link: int) -> str:
    try:
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _require_of_root(directory: int, node: int, path: str) -> None:
    """Refuse what another user could replace; in a sticky directory, only its owner can."""
    status = os.fstat(directory)
    others = stat.S_IWGRP | stat.S_IWOTH
    sticky = status.st_mode & stat.S_ISVTX and not os.fstat(node).st_uid
    if status.st_uid or (status.st_mode & others and not sticky):
        place = os.readlink(f"/proc/self/fd/{directory}")
        raise PermissionError(errno.EPERM, f"users other than root can change {place}", path)
