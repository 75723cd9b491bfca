# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes all bytes, reads files that hold one value, lists names in a directory.

Imported by the launcher: imports nothing but os and errno.
"""

from __future__ import annotations

import errno
import os

_MAX_VALUE = 1 << 16
# A full disk, or a used up quota.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def close_umask() -> None:
    """Let only the user write to new directories: os.makedirs gives no mode to those between."""
    os.umask(os.umask(0o077) | 0o022)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_value(path: str) -> str | None:
    """The text of a file of procfs or a cgroup; None when the kernel has no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, _MAX_VALUE).decode().strip()
    finally:
        os.close(fd)


def read_number(path: str) -> int | None:
    text = read_value(path)
    return int(text) if text is not None and text.isdigit() else None


def read_field(path: str, key: str) -> int | None:
    """A number of a flat keyed file, such as memory.events."""
    for line in (read_value(path) or "").splitlines():
        name, dummy, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


def write_value(path: str, value: str) -> None:
    # The kernel parses each write on its own; tests use plain files, which need O_TRUNC.
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, f"{value}\n".encode())
    finally:
        os.close(fd)


def names(directory: str) -> list[str]:
    """The names in a directory, sorted; [] when it does not exist."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def existing(path: str) -> str:
    """The path, or its nearest parent that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def directories(path: str) -> list[str]:
    """The names of subdirectories, sorted; [] when the directory does not exist."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
