# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes where 64-bit ELF programs find their dynamic linker and libraries (elf(5), ld.so(8))."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import DefaultDict, Dict, List, Mapping

from ..kernel.elf import NotElf

_PT_DYNAMIC, _PT_INTERP = 2, 3
_DT_NULL, _DT_STRTAB, _DT_RPATH, _DT_DEBUG, _DT_RUNPATH = 0, 5, 15, 21, 29
# Elf64_Phdr up to the size in the file, and Elf64_Dyn, of little-endian machines.
_SEGMENT, _TAG = struct.Struct("<2I4Q"), struct.Struct("<2Q")
_MAGIC = b"\x7fELF\x02\x01"


def redirect(program: bytearray, linker: str, libraries: str) -> None:
    """Change a dynamic program in place: its linker, and the directory of its libraries.

    The directory (DT_RPATH) comes before all others, also for libraries of libraries, and programs
    that it starts don't inherit it (ld.so(8)). Its path has to be the end of that of the linker, as
    a program has room for one text only: that of its linker.
    """
    segments = _segments(program)
    if _PT_INTERP not in segments:
        return
    path = segments[_PT_INTERP]
    raw = linker.encode()
    tags = _tags(program, segments)
    # Without a tag for directories, what debuggers read gives its place.
    places = [*tags[_DT_RUNPATH], *tags[_DT_RPATH]] or tags[_DT_DEBUG]
    if len(raw) >= path.size or not linker.endswith(libraries) or not places:
        raise NotElf
    program[path.offset : path.offset + path.size] = raw.ljust(path.size, b"\0")
    text = path.address + len(raw) - len(libraries.encode())
    for place in places:
        # It is before the table of strings, of which the linker knows neither start nor end.
        strings = _TAG.unpack_from(program, tags[_DT_STRTAB][0])[1]
        _TAG.pack_into(program, place, _DT_RPATH, (text - strings) % (1 << 64))


def forget_directories(library: bytearray) -> None:
    """Change a library in place: it names no directory, so those of the program count."""
    tags = _tags(library, _segments(library))
    for place in (*tags[_DT_RUNPATH], *tags[_DT_RPATH]):
        _TAG.pack_into(library, place, _DT_DEBUG, 0)


class _Segment:
    __slots__ = ("kind", "offset", "address", "size")

    def __init__(self, data: bytearray, place: int) -> None:
        fields = _SEGMENT.unpack_from(data, place)
        self.kind = fields[0]
        self.offset, self.address, self.size = fields[2], fields[3], fields[5]


def _segments(data: bytearray) -> Dict[int, _Segment]:
    """The segments of a 64-bit file by their types; those that can be several don't matter."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise NotElf
    start = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    every = [_Segment(data, start + number * size) for number in range(count)]
    return {segment.kind: segment for segment in every}


def _tags(data: bytearray, segments: Mapping[int, _Segment]) -> DefaultDict[int, List[int]]:
    """The places of the entries of the dynamic section, by their tags."""
    tags: DefaultDict[int, List[int]] = defaultdict(list)
    dynamic = segments.get(_PT_DYNAMIC)
    if dynamic is None:
        return tags
    for place in range(dynamic.offset, dynamic.offset + dynamic.size, _TAG.size):
        tag = _TAG.unpack_from(data, place)[0]
        if tag == _DT_NULL:
            break
        tags[tag].append(place)
    return tags
