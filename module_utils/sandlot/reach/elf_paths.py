# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes where 64-bit ELF programs find their dynamic linker and libraries (elf(5), ld.so(8))."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import DefaultDict, Dict, List, Mapping

from ..kernel.elf import NotElf

_PT_NULL, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 0, 2, 3, 4
_DT_NULL, _DT_STRTAB, _DT_RPATH, _DT_DEBUG, _DT_RUNPATH = 0, 5, 15, 21, 29
# Elf64_Phdr up to the size in the file, and Elf64_Dyn, of little-endian machines.
_SEGMENT, _TAG = struct.Struct("<2I4Q"), struct.Struct("<2Q")
_MAGIC = b"\x7fELF\x02\x01"


def redirect(program: bytearray, linker: str, libraries: str) -> None:
    """Change a dynamic program in place: its linker, and the directory of its libraries.

    The directory (DT_RPATH) comes before all others, also for libraries of libraries, and programs
    that it starts don't inherit it (ld.so(8)). The text of it takes the place of a note.
    """
    segments = _segments(program)
    if _PT_INTERP not in segments:
        return
    if _PT_NOTE not in segments:
        raise NotElf
    note = segments[_PT_NOTE]
    _write_text(program, segments[_PT_INTERP], linker)
    _write_text(program, note, libraries)
    struct.pack_into("<I", program, note.place, _PT_NULL)
    tags = _tags(program, segments)
    # Without a tag for directories, what debuggers read gives its place.
    places = [*tags[_DT_RUNPATH], *tags[_DT_RPATH]] or tags[_DT_DEBUG]
    if not places or not tags[_DT_STRTAB]:
        raise NotElf
    strings = _TAG.unpack_from(program, tags[_DT_STRTAB][0])[1]
    for place in places:
        # The text may be before the table of strings, of which the linker knows no end.
        _TAG.pack_into(program, place, _DT_RPATH, (note.address - strings) % (1 << 64))


def forget_directories(library: bytearray) -> None:
    """Change a library in place: it names no directory, so those of the program count."""
    tags = _tags(library, _segments(library))
    for place in (*tags[_DT_RUNPATH], *tags[_DT_RPATH]):
        _TAG.pack_into(library, place, _DT_DEBUG, 0)


class _Segment:
    __slots__ = ("place", "kind", "offset", "address", "size")

    def __init__(self, data: bytearray, place: int) -> None:
        fields = _SEGMENT.unpack_from(data, place)
        self.place, self.kind = place, fields[0]
        self.offset, self.address, self.size = fields[2], fields[3], fields[5]


def _segments(data: bytearray) -> Dict[int, _Segment]:
    """The segments of a 64-bit file by their types: the longest of each."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise NotElf
    start = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    every = [_Segment(data, start + number * size) for number in range(count)]
    every.sort(key=lambda segment: segment.size)
    return {segment.kind: segment for segment in every}


def _write_text(data: bytearray, segment: _Segment, text: str) -> None:
    raw = text.encode()
    if len(raw) >= segment.size:
        raise NotElf
    data[segment.offset : segment.offset + segment.size] = raw.ljust(segment.size, b"\0")


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
