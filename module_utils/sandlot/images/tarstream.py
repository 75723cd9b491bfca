# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads tar streams (v7, ustar, GNU, pax) that may be hostile, in bounded memory and time.

Debian 12's tarfile module has no extraction filters, reads names of any length into memory and
has known loops on crafted headers. Names are bytes here, as the kernel takes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Iterator, Mapping, Protocol, cast

from ..errors import SandlotError
from . import tarsparse

BLOCK = 512
CHUNK = 1 << 20
MAX_EXTENSION = 1 << 20
MAX_EXTENSIONS_IN_A_ROW = 8

FILE = "file"
HARD_LINK = "hard link"
SYMLINK = "symbolic link"
CHARACTER = "character device"
BLOCK_DEVICE = "block device"
DIRECTORY = "directory"
FIFO = "FIFO"
_DUMPED = b"D"
_ATTRIBUTE = "SCHILY.xattr."
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"S": FILE,
    b"1": HARD_LINK,
    b"2": SYMLINK,
    b"3": CHARACTER,
    b"4": BLOCK_DEVICE,
    b"5": DIRECTORY,
    # With the names in it as data, as tar --listed-incremental writes directories.
    _DUMPED: DIRECTORY,
    b"6": FIFO,
}
_TRUNCATED = "the archive is truncated"
_CORRUPT = "the archive is corrupt"
_FETCH_AGAIN = "make or fetch the archive again, and update its checksum"


class ArchiveError(SandlotError):
    """An archive that is damaged, or has a member that must not be extracted."""


class Stream(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


@dataclass(frozen=True)
class Member:
    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: float
    link: bytes
    # For a sparse file: the offsets and lengths of the stored parts.
    parts: tarsparse.Map | None = None
    # Extended attributes, as GNU tar and star keep them; images drop them.
    attributes: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    # The major and minor number of a device.
    device: tuple[int, int] = (0, 0)

    @property
    def stored(self) -> int:
        """Bytes of data in the archive."""
        return self.size if self.parts is None else sum(length for dummy, length in self.parts)

    def __str__(self) -> str:
        return shown(self.name)


def shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


class TarStream:
    """Iterates over members; a member's data can be read until the next member is taken.

    No more than ``limit`` bytes are read, as headers can be endless too.
    """

    def __init__(self, stream: Stream, limit: int | None = None) -> None:
        self._stream = stream
        self.limit = limit
        self._read = 0
        self._member: Member | None = None
        self._left = 0
        self._padding = 0
        self._globals: dict[str, bytes] = {}
        # Whether blocks of zeros ended the archive; a truncated one may lack them.
        self.ended = False

    def __iter__(self) -> Iterator[Member]:
        while True:
            member = self._next()
            if member is None:
                return
            self._member = member
            self._left = member.stored
            # The map before the data of a sparse file takes whole blocks.
            self._padding = -member.stored % BLOCK
            yield member

    def data(self) -> Iterator[bytes]:
        """Yield the rest of the current member's data."""
        while self._left:
            chunk = self._exactly(min(self._left, CHUNK))
            self._left -= len(chunk)
            yield chunk

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, data) for each part of the current member, from its beginning."""
        member = cast(Member, self._member)
        parts = member.parts
        for offset, length in ((0, member.size),) if parts is None else parts:
            end = offset + length
            while offset < end:
                chunk = self._exactly(min(end - offset, CHUNK))
                self._left -= len(chunk)
                yield offset, chunk
                offset += len(chunk)

    def _next(self) -> Member | None:
        for _data in self.data():
            pass
        self._exactly(self._padding)
        self._padding = 0
        extended: dict[str, bytes] = {}
        for number in range(MAX_EXTENSIONS_IN_A_ROW):
            # GNU tar and docker accept archives that end with their last member.
            header = self._exactly(BLOCK, may_end=not number)
            if not any(header):
                self.ended = bool(header)
                return None
            if not _has_its_sum(header):
                raise ArchiveError(f"{_CORRUPT}: a header's checksum is wrong", hint=_FETCH_AGAIN)
            if header[156:157] not in (b"L", b"K", b"x", b"X", b"g", b"V"):
                return self._described(header, {**self._globals, **extended})
            self._extension(header, extended)
        raise ArchiveError(f"{_CORRUPT}: endless extension headers", hint=_FETCH_AGAIN)

    def _described(self, header: bytes, extended: dict[str, bytes]) -> Member:
        name = extended.pop("GNU.sparse.name", None)
        if name:
            extended["path"] = name
        member = _member(header, extended)
        old = header[156:157] == b"S"
        if member.kind != FILE or not (old or tarsparse.is_pax(extended)):
            return member
        stored = member.size
        try:
            if old:
                size, parts = tarsparse.old_gnu(header, self._exactly, _number)
            else:
                size, parts, taken = tarsparse.pax(extended, self._exactly)
                stored -= taken
            tarsparse.check(size, parts, stored)
        except tarsparse.Damaged as error:
            raise ArchiveError(f"member {member}: {error}", hint=_FETCH_AGAIN) from error
        return replace(member, size=size, parts=parts)

    def _extension(self, header: bytes, extended: dict[str, bytes]) -> None:
        """Read a header that describes the next member, or all following ones."""
        size = _number(header[124:136])
        if not 0 <= size <= MAX_EXTENSION:
            raise ArchiveError(f"{_CORRUPT}: an extension header of {size} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        kind = header[156:157]
        if kind == b"L":
            extended["path"] = _text(data)
        elif kind == b"K":
            extended["linkpath"] = _text(data)
        elif kind == b"g":
            self._globals.update(_pax(data))
        elif kind in (b"x", b"X"):
            extended.update(_pax(data))

    def _exactly(self, size: int, *, may_end: bool = False) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._stream.read(size)
            if not part and may_end and not parts:
                break
            if not part:
                raise ArchiveError(_TRUNCATED, hint=_FETCH_AGAIN)
            parts.append(part)
            size -= len(part)
            self._read += len(part)
            if self.limit is not None and self._read > self.limit:
                problem = f"more than {self.limit} bytes come out of it, members and headers"
                raise ArchiveError(problem, hint="raise max_size if that much is right")
        return b"".join(parts)


def is_header(block: bytes) -> bool:
    try:
        return len(block) == BLOCK and _has_its_sum(block)
    except ArchiveError:
        return False


def _has_its_sum(header: bytes) -> bool:
    blank = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blank)
    # Some old tars summed signed characters.
    signed = unsigned - 256 * sum(byte > 127 for byte in blank)
    return _number(header[148:156]) in (unsigned, signed)


def _member(header: bytes, extended: Mapping[str, bytes]) -> Member:
    name = extended.get("path") or _header_name(header)
    kind = _kind(header, name)
    has_data = kind == FILE or header[156:157] == _DUMPED
    member = Member(
        name=name,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_extended_number(extended, "uid", header[108:116]),
        gid=_extended_number(extended, "gid", header[116:124]),
        size=_extended_number(extended, "size", header[124:136]) if has_data else 0,
        mtime=_time(extended, header[136:148]),
        link=extended.get("linkpath") or _text(header[157:257]),
        attributes=_attributes(extended),
        device=(_number(header[329:337]), _number(header[337:345]))
        if kind in (CHARACTER, BLOCK_DEVICE)
        else (0, 0),
    )
    if member.size < 0:
        raise ArchiveError(f"{_CORRUPT}: member {member} has a negative size")
    if b"\0" in name + member.link:
        raise ArchiveError(f"{_CORRUPT}: member {member} has a NUL in its name or target")
    return member


def _attributes(extended: Mapping[str, bytes]) -> dict[str, bytes]:
    keys = [key for key in extended if key.startswith(_ATTRIBUTE)]
    return {_attribute_name(key[len(_ATTRIBUTE) :]): extended[key] for key in keys}


def _attribute_name(keyword: str) -> str:
    """The name that GNU tar wrote so: a "=" would end the key of a record."""
    return keyword.replace("%3D", "=").replace("%25", "%")


def _header_name(header: bytes) -> bytes:
    name, prefix = _text(header[0:100]), _text(header[345:500])
    # With GNU's magic, "ustar ", the prefix field holds other data.
    is_ustar = header[257:263] == b"ustar\0"
    return prefix + b"/" + name if is_ustar and prefix else name


def _kind(header: bytes, name: bytes) -> str:
    flag = header[156:157]
    if flag not in _KINDS:
        kind = flag.decode("latin-1")
        raise ArchiveError(f"member {shown(name)} has a type that is not supported: {kind!r}")
    kind = _KINDS[flag]
    return DIRECTORY if kind == FILE and name.endswith(b"/") else kind


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256 when the first bit is set."""
    if field[0] & 0x80:
        negative = field[0] == 0xFF
        value = int.from_bytes(field, "big", signed=negative)
        return value if negative else value & ~(0x80 << 8 * (len(field) - 1))
    digits = _text(field).strip(b" ")
    if digits.strip(b"01234567"):
        raise ArchiveError(f"{_CORRUPT}: a header holds {digits!r} where a number belongs")
    return int(digits or b"0", 8)


def _extended_number(extended: Mapping[str, bytes], key: str, field: bytes) -> int:
    text = extended.get(key)
    if text is None:
        return _number(field)
    if not text.isdigit() or len(text) > 20:
        raise ArchiveError(f"{_CORRUPT}: a header holds {text[:40]!r} as {key}")
    return int(text)


def _time(extended: Mapping[str, bytes], field: bytes) -> float:
    try:
        return float(extended["mtime"][:40]) if "mtime" in extended else float(_number(field))
    except ValueError as error:
        raise ArchiveError(f"{_CORRUPT}: {error}") from error


def _pax(data: bytes) -> dict[str, bytes]:
    """Records "LENGTH KEY=VALUE\\n", the length counting itself."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        digits = data[position : position + 8].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or len(record) != length or record[-1:] != b"\n":
            raise ArchiveError(f"{_CORRUPT}: a pax header is malformed", hint=_FETCH_AGAIN)
        # As the kernel's names: those of attributes need not be UTF-8.
        records[key.decode("utf-8", "surrogateescape")] = value
        position += length
    return records
