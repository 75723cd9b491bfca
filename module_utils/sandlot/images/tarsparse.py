# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sparse files in tar archives: GNU's old format, and its versions 0.1 and 1.0 in pax headers.

Holes count as bytes, so that bounds hold for the size that a reader of the file sees.
"""

from __future__ import annotations

from typing import Callable, List, Mapping, Sequence, Tuple

# Offset and length of each part that the archive stores.
Map = Tuple[Tuple[int, int], ...]
Read = Callable[[int], bytes]
Number = Callable[[bytes], int]

MAX_PARTS = 1 << 16
_PREFIX = "GNU.sparse."
_BLOCK = 512
_PAIR = 24
# Entries in a block that continues a header.
_PAIRS = 21
_LONGEST_NUMBER = 20


class Damaged(ValueError):
    """The archive has no valid map of a sparse file."""


def is_pax(extended: Mapping[str, bytes]) -> bool:
    return any(key.startswith(_PREFIX) for key in extended)


def old_gnu(header: bytes, read: Read, number: Number) -> Tuple[int, Map]:
    """(size, map) from a header of type S and the blocks that continue it."""
    numbers = _pairs(header[386:482], number)
    more = header[482]
    for dummy in range(MAX_PARTS // _PAIRS):
        if not more:
            return number(header[483:495]), _map(numbers)
        block = read(_BLOCK)
        numbers += _pairs(block[:504], number)
        more = block[504]
    raise Damaged("a sparse file has too many parts")


def _pairs(field: bytes, number: Number) -> List[int]:
    numbers: List[int] = []
    for start in range(0, len(field), _PAIR):
        pair = field[start : start + _PAIR]
        if not pair.strip(b"\0"):
            break
        numbers += [number(pair[:12]), number(pair[12:])]
    return numbers


def pax(extended: Mapping[str, bytes], read: Read) -> Tuple[int, Map, int]:
    """(size, map, length of the map at the start of the data) from pax headers."""
    if extended.get(f"{_PREFIX}major") == b"1" and extended.get(f"{_PREFIX}minor") == b"0":
        numbers, taken = _leading(read)
        return _decimal(extended.get(f"{_PREFIX}realsize", b"")), _map(numbers), taken
    if f"{_PREFIX}map" not in extended:
        raise Damaged("a sparse file has an unknown format; make the archive without --sparse")
    words = extended[f"{_PREFIX}map"].split(b",")
    if len(words) > 2 * MAX_PARTS:
        raise Damaged("a sparse file has too many parts")
    size = _decimal(extended.get(f"{_PREFIX}size", b""))
    return size, _map([_decimal(word) for word in words if word]), 0


def _leading(read: Read) -> Tuple[List[int], int]:
    """The map before the data: numbers, one a line, in whole blocks; the first counts the pairs."""
    numbers: List[int] = []
    rest, taken = b"", 0
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        *lines, rest = (rest + read(_BLOCK)).split(b"\n")
        taken += _BLOCK
        numbers += [_decimal(line) for line in lines]
        if len(rest) > _BLOCK or (numbers and numbers[0] > MAX_PARTS):
            raise Damaged("the map of a sparse file is too long")
    return numbers[1:], taken


def _decimal(word: bytes) -> int:
    if not word.isdigit() or len(word) > _LONGEST_NUMBER:
        raise Damaged(f"a sparse file has {word[:40]!r} where a number belongs")
    return int(word)


def _map(numbers: Sequence[int]) -> Map:
    if len(numbers) % 2:
        raise Damaged("the map of a sparse file ends early")
    return tuple(zip(numbers[::2], numbers[1::2]))


def check(size: int, parts: Map, stored: int) -> None:
    """Damaged unless the parts are in order, within the file, and as long as the stored data."""
    end = 0
    for offset, length in parts:
        if offset < end or length < 0:
            raise Damaged("parts of a sparse file overlap")
        end = offset + length
    if end > size or sum(length for dummy, length in parts) != stored:
        raise Damaged("parts of a sparse file don't fit its size")
