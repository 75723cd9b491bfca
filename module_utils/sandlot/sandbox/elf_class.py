# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tells whether a program of a sandbox is one for the i386 (elf(5)), without running it."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import Mapping, Sequence

from ..kernel import mounts

_HEAD = 256
_ELF32 = b"\x7fELF\x01"
_I386 = b"\x03\x00"


def is_32_bit(roots: Sequence[str], program: str, env: Mapping[str, str]) -> bool:
    """Look in ``roots``, the trees of the sandbox from its layer down; False when unknown.

    For a script, look at its interpreter.
    """
    head = _head(roots, program, env.get("PATH", ""))
    if head[:2] == b"#!":
        words = head[2:].partition(b"\n")[0].split()
        head = _head(roots, words[0].decode("utf-8", "replace"), "") if words else b""
    return head.startswith(_ELF32) and head[18:20] == _I386


def _head(roots: Sequence[str], program: str, path: str) -> bytes:
    places = [program]
    if "/" not in program:
        places = [posixpath.join(directory, program) for directory in path.split(":")]
    for place in places:
        for root in roots:
            head = _read(root, place)
            if head is not None:
                return head
    return b""


def _read(root: str, path: str) -> bytes | None:
    """The first bytes of a regular file; None when it can't be read."""
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        fd = mounts.openat2(directory, path, flags, mounts.RESOLVE_IN_ROOT)
    except OSError:
        return None  # a link may lead into another tree
    finally:
        os.close(directory)
    try:
        return os.read(fd, _HEAD) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)
