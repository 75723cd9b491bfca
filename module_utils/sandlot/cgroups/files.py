# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reading and writing the files of a cgroup: one value, one system call."""

from __future__ import annotations

import os


def read(path: str) -> str | None:
    """The file's text; None when the kernel has no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 1 << 16).decode().strip()
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    # The kernel parses each write by itself; O_TRUNC is for the trees of tests.
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode() + b"\n")
    finally:
        os.close(fd)


def number(path: str) -> int | None:
    text = read(path)
    return int(text) if text is not None and text.isdigit() else None


def field(path: str, key: str) -> int | None:
    """A number of a flat keyed file, such as memory.events."""
    for line in (read(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None
