# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resolves "user[:group]" by the sandbox's own passwd and group files, with bounded reads."""

from __future__ import annotations

import os
import stat

from ..errors import LaunchError
from ..kernel import mounts

_MAX_FILE = 1 << 20


def resolve(root: int, user: str) -> tuple[int, int, list[int]]:
    """(uid, gid, supplementary gids) inside the sandbox; digits are an id, never a name."""
    name, dummy, group = user.partition(":")
    passwd = _rows(root, "passwd")
    row = next((r for r in passwd if len(r) > 3 and r[2 if _is_number(name) else 0] == name), None)
    if row is None and not _is_number(name):
        raise LaunchError(f"user: {name!r} is not in the sandbox's /etc/passwd", hint="use a uid")
    uid = _bounded(name, "user") if _is_number(name) else _number(row, 2)
    groups = _rows(root, "group")
    if not group:
        gid = _number(row, 3) if row else 0
    elif _is_number(group):
        gid = _bounded(group, "user")
    else:
        own = next((r for r in groups if len(r) > 2 and r[0] == group), None)
        if own is None:
            problem = f"user: group {group!r} is not in the sandbox's /etc/group"
            raise LaunchError(problem, hint="use a gid")
        gid = _number(own, 2)
    members = [r for r in groups if len(r) > 3 and row and row[0] in r[3].split(",")]
    return uid, gid, sorted({_number(r, 2) for r in members} | {gid})


def _number(row: list[str] | None, field: int) -> int:
    return _bounded(row[field] if row else "", "user: in the sandbox's user files")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _bounded(text: str, where: str) -> int:
    """Refuse ids beyond the sandbox's map, such as -1, by which setresuid(2) changes nothing."""
    if not _is_number(text) or len(text) > 5 or int(text) > 65535:
        raise LaunchError(f"{where}: {text[:20]!r} is no id from 0 to 65535")
    return int(text)


def _rows(root: int, name: str) -> list[list[str]]:
    """The rows of etc/NAME below ``root``, a regular file of at most 1 MiB; follows no symlink."""
    flags = os.O_RDONLY | os.O_NONBLOCK
    resolve = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS
    try:
        fd = mounts.openat2(root, f"etc/{name}", flags, resolve)
    except FileNotFoundError:
        return []
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MAX_FILE:
            raise LaunchError(f"/etc/{name} in the sandbox is no regular file of at most 1 MiB")
        text = os.read(fd, _MAX_FILE).decode("utf-8", "replace")
    finally:
        os.close(fd)
    return [line.split(":") for line in text.split("\n")]
