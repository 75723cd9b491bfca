# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resolves "user[:group]" by the sandbox's own passwd and group files, with bounded reads."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..kernel import mounts
from ..wire import LOGIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Tuple

_MAX_FILE = 1 << 20
# Shells that let nobody in, which programs that start a shell could not use.
_NO_SHELLS = ("nologin", "false", "true")


def resolve(root: int, user: str) -> Tuple[int, int, List[int], Dict[str, str]]:
    """(uid, gid, supplementary gids, login variables); digits are an id, never a name.

    As in docker, a group that is named is the only one. Ids alone need no file: one that can't be
    read counts as missing.
    """
    name, dummy, group = user.partition(":")
    passwd = _rows(root, "passwd", needed=not _is_number(name))
    row = next((r for r in passwd if len(r) > 3 and r[2 if _is_number(name) else 0] == name), None)
    if row is None and not _is_number(name):
        raise LaunchError(f"user: {name!r} is not in the sandbox's /etc/passwd", hint="use a uid")
    uid = _bounded(name, "user") if _is_number(name) else _number(row, 2)
    if group:
        gid = _bounded(group, "user") if _is_number(group) else _group_id(root, group)
        return uid, gid, [gid], _login(uid, row)
    groups = _rows(root, "group", needed=not _is_number(name))
    gid = _number(row, 3) if row else 0
    members = [r for r in groups if len(r) > 3 and row and row[0] in r[3].split(",")]
    return uid, gid, sorted({_number(r, 2) for r in members} | {gid}), _login(uid, row)


def _group_id(root: int, name: str) -> int:
    groups = _rows(root, "group", needed=True)
    row = next((r for r in groups if len(r) > 2 and r[0] == name), None)
    if row is None:
        problem = f"user: group {name!r} is not in the sandbox's /etc/group"
        raise LaunchError(problem, hint="use a gid")
    return _number(row, 2)


def login_names(launch: Mapping[str, Any]) -> List[str]:
    """Names of the variables to take from a login: those that the sandbox has no value for.

    HOME=/root in ``env`` is the default of all launch files; ``login`` tells when it is not.
    """
    if "login" in launch:
        return list(launch["login"])
    env = {"HOME": "/root", **launch["env"]}
    return [name for name in LOGIN if name not in env or (name, env[name]) == ("HOME", "/root")]


def _login(uid: int, row: Optional[List[str]]) -> Dict[str, str]:
    """HOME, and what login(1) also sets for a user that has a name."""
    if row is None:
        return {"HOME": "/root" if uid == 0 else "/"}
    home, shell = (row + [""] * 7)[5:7]
    login = {"HOME": home if home.startswith("/") else "/", "USER": row[0], "LOGNAME": row[0]}
    if shell.startswith("/") and shell.rpartition("/")[2] not in _NO_SHELLS:
        login["SHELL"] = shell
    return login


def _number(row: Optional[List[str]], field: int) -> int:
    return _bounded(row[field] if row else "", "user: in the sandbox's user files")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _bounded(text: str, where: str) -> int:
    """Refuse ids beyond the sandbox's map, such as -1, by which setresuid(2) changes nothing."""
    if not _is_number(text) or len(text) > 5 or int(text) > 65535:
        raise LaunchError(f"{where}: {text[:20]!r} is no id from 0 to 65535")
    return int(text)


def _rows(root: int, name: str, *, needed: bool) -> List[List[str]]:
    """The rows of etc/NAME below ``root``; none without such a file, which may be ``needed``."""
    try:
        text = _read(root, name)
    except FileNotFoundError:
        return []
    except LaunchError:
        if needed:
            raise
        return []
    # As docker does: files may have the line ends of another system.
    return [line.strip().split(":") for line in text.replace("\0", "").split("\n")]


def _read(root: int, name: str) -> str:
    """The text of a regular file of at most 1 MiB; links are followed inside the root."""
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK
        fd = mounts.openat2(root, f"etc/{name}", flags, mounts.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES):
            raise _no_file(name) from error
        raise
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MAX_FILE:
            raise _no_file(name)
        return os.read(fd, _MAX_FILE).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _no_file(name: str) -> LaunchError:
    problem = f"/etc/{name} in the sandbox is no regular file of at most 1 MiB"
    return LaunchError(problem, hint="mend it, or give user and group as ids")
