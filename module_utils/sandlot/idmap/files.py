# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the id files: lines of /etc/subuid and /etc/subgid, ids of real users and groups."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import Iterator

from .. import store
from ..errors import ForeignError, HostError
from ..kernel.files import names
from ..site import Site
from ..spec.names import sandbox_name
from . import created, lockfile

SIZE = 65536
PREFIX = "sandlot."
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class IdRange:
    start: int
    size: int = SIZE

    @property
    def last(self) -> int:
        return self.start + self.size - 1

    def overlaps(self, other: IdRange) -> bool:
        return self.start <= other.last and other.start <= self.last


@dataclass(frozen=True)
class Line:
    """One line of an id file, or one entry of passwd or group; ``ids`` is None when unreadable."""

    path: str
    number: int
    raw: bytes
    owner: str
    ids: IdRange | None

    @property
    def name(self) -> str | None:
        """The sandbox this line belongs to; None for a foreign line."""
        return self.owner[len(PREFIX) :] if self.owner.startswith(PREFIX) else None

    def __str__(self) -> str:
        text = self.raw.rstrip(b"\n").decode("utf-8", "backslashreplace")
        return f"{self.path} line {self.number} ({text!r})"


@dataclass(frozen=True)
class IdFile:
    """An id file; programs open ``path``, and ``target`` is the file that a link there leads to."""

    path: str
    target: str
    content: bytes | None
    lines: tuple[Line, ...]
    created: bool
    leftovers: tuple[str, ...]

    def owned(self) -> dict[str, list[Line]]:
        """Our lines, by sandbox."""
        owned: dict[str, list[Line]] = {}
        for line in self.lines:
            if line.name is not None:
                owned.setdefault(line.name, []).append(line)
        return owned


@dataclass(frozen=True)
class IdFiles:
    uid: IdFile
    gid: IdFile
    accounts: tuple[Line, ...]

    @property
    def both(self) -> tuple[IdFile, IdFile]:
        return self.uid, self.gid

    @property
    def names(self) -> list[str]:
        """Every sandbox that has a line in either file."""
        lines = (line for file in self.both for line in file.lines)
        return list(dict.fromkeys(line.name for line in lines if line.name is not None))

    def foreign(self) -> Iterator[Line]:
        """All lines and entries that are not ours."""
        for file in self.both:
            yield from (line for line in file.lines if line.name is None)
        yield from self.accounts


def owner(name: str) -> str:
    """The owner field of a sandbox's lines; no valid name can make it look like another's."""
    return PREFIX + sandbox_name("name", name)


def line_of(name: str, ids: IdRange, place: str) -> Line:
    """The line for a sandbox, whether or not a file has it."""
    raw = f"{owner(name)}:{ids.start}:{ids.size}\n".encode()
    return Line(place, 1, raw, owner(name), ids)


def observe(site: Site) -> IdFiles:
    return IdFiles(
        uid=_id_file(site, site.subuid),
        gid=_id_file(site, site.subgid),
        accounts=(*_accounts(site, "passwd"), *_accounts(site, "group")),
    )


def recorded(files: IdFiles) -> dict[str, IdRange]:
    """The ranges of all sandboxes with a readable line, valid or not."""
    lines = [line for file in reversed(files.both) for line in file.lines]
    return {line.name: line.ids for line in lines if line.name is not None and line.ids}


def reserved(site: Site) -> dict[str, IdRange]:
    """The ranges in the records of sandboxes, with or without their lines."""
    ranges: dict[str, IdRange] = {}
    for name in names(site.sandboxes):
        ids = (store.read(site.sandbox(name).record) or {}).get("ids")
        if ids:
            ranges[name] = IdRange(ids["uid"], ids["size"])
    return ranges


def _id_file(site: Site, path: str) -> IdFile:
    target = os.path.realpath(path)
    content = read(target)
    return IdFile(
        path=path,
        target=target,
        content=content,
        lines=tuple(parse(path, content or b"")),
        created=created.recorded(site, path),
        leftovers=tuple(lockfile.stale_files(path, target)),
    )


def read(path: str) -> bytes | None:
    """The content of a regular file, None if it is missing; a FIFO does not block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostError(f"{path} is not a regular file", hint="replace it with one")
        with open(fd, "rb", closefd=False) as handle:
            return handle.read()
    finally:
        os.close(fd)


def parse(path: str, content: bytes) -> Iterator[Line]:
    for number, raw in enumerate(_LINE.findall(content), start=1):
        fields = raw.decode("utf-8", "surrogateescape").split(":")
        yield Line(path, number, raw, fields[0] if len(fields) > 1 else "", _ids(fields))


def _ids(fields: list[str]) -> IdRange | None:
    """The ids of a line: strict for our lines; of foreign lines all that any program accepts."""
    if len(fields) < 3:
        return None
    start, size = _number(fields[1]), _number(fields[2])
    if start is None or size is None or start < 0 or size <= 0:
        return None
    if fields[0].startswith(PREFIX) and f"{start}:{size}\n" != ":".join(fields[1:]):
        return None
    return IdRange(start, size)


def _number(text: str) -> int | None:
    """Parse a number as strtoul(3) with base 0 does, which shadow uses."""
    text = text.strip()
    if text.isdecimal() and text.isascii() and text[0] != "0":
        return int(text)
    octal = re.fullmatch(r"0[0-7]+", text)
    try:
        return int(text, 8 if octal else 0)
    except ValueError:
        return None


def _accounts(site: Site, database: str) -> Iterator[Line]:
    path = f"{site.root}/etc/{database}"
    for number, raw in enumerate(_LINE.findall(read(path) or b""), start=1):
        fields = raw.decode("utf-8", "surrogateescape").split(":")
        value = _number(fields[2]) if len(fields) > 2 else None
        if value is not None and value >= 0:
            # passwd holds a password field on old hosts: name and id are enough for a message.
            shown = f"{fields[0]}, id {value}".encode("utf-8", "surrogateescape")
            yield Line(path, number, shown, fields[0], IdRange(value, 1))


def conflict(ours: Line, other: Line) -> ForeignError:
    return ForeignError(
        f"{ours} overlaps {other}",
        hint="remove the one that is wrong; sandlot never moves a range that files may belong to",
    )
