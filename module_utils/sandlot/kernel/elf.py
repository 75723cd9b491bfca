# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the dynamic linker of an ELF program (elf(5))."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Optional

_PT_INTERP = 3
_HEADER = 64
_MAX_PATH = 4096


class NotElf(ValueError):
    """The file is no ELF program, or a damaged one."""


def interpreter(stream: BinaryIO) -> Optional[str]:
    """Path of the dynamic linker that the program asks for; None for a static one."""
    head = stream.read(_HEADER)
    if head[:4] != b"\x7fELF" or len(head) < _HEADER:
        raise NotElf
    order, word = ("<" if head[5] == 1 else ">"), ("Q" if head[4] == 2 else "I")
    start = struct.unpack_from(f"{order}{word}", head, 32 if word == "Q" else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", head, 54 if word == "Q" else 42)
    if not count:
        raise NotElf
    for number in range(count):
        stream.seek(start + number * size)
        header = stream.read(size)
        if len(header) < size or size < 32:
            raise NotElf
        if struct.unpack_from(f"{order}I", header)[0] == _PT_INTERP:
            offset = struct.unpack_from(f"{order}{word}", header, 8 if word == "Q" else 4)[0]
            length = struct.unpack_from(f"{order}{word}", header, 32 if word == "Q" else 16)[0]
            stream.seek(offset)
            return stream.read(min(length, _MAX_PATH)).rstrip(b"\0").decode("ascii", "replace")
    return None
