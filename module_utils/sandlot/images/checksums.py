# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checksums of archives: given as digits, or in a file as coreutils and BSD's tools write it."""

from __future__ import annotations

import os
import re
import stat
from typing import Any, Dict, Iterator, Tuple

from ..errors import SpecError
from ..spec.names import absolute_path
from ..spec.text import brief, line, refusal
from . import download

_LITERAL = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_URL = re.compile(r"https?://[^/?#@\s]+(?:/[^#\s]*)?", re.I)
_ALGORITHMS = {64: "sha256", 128: "sha512"}
_BSD = re.compile(r"(SHA256|SHA512) \((.*)\) = ([0-9A-Fa-f]+)")
_COREUTILS = re.compile(r"(\\?)([0-9A-Fa-f]+) [ *](.+)")
_LARGEST = 1 << 20


def url(option: str, value: Any) -> str:
    text = line(option, value)
    if not text.isascii() or not _URL.fullmatch(text):
        hint = "write http://HOST/PATH or https://HOST/PATH, without user, password or fragment"
        shown = re.sub("//[^/]*@", "//...@", text)
        raise refusal(option, brief(shown), "is not a URL that can be fetched", hint=hint)
    return text


def checksum(option: str, value: Any) -> str:
    """Validate a checksum: sha256:HEX, sha512:HEX, or the URL or path of a checksum file."""
    text = line(option, value).strip()
    if _LITERAL.fullmatch(text.lower()):
        return text.lower()
    if text.startswith("/"):
        return absolute_path(option, text)
    if "://" in text:
        return url(option, text)
    hint = "write sha256: and 64, or sha512: and 128 hexadecimal digits, or a URL or path of a file"
    raise refusal(option, value, "is not a checksum", hint=hint)


def literal(text: str) -> str | None:
    """The digits of a checksum that is given as such, not as a file."""
    return text.partition(":")[2] if _LITERAL.fullmatch(text) else None


def algorithm(digits: str) -> str:
    return _ALGORITHMS[len(digits)]


def fetched(address: str, archive: str, what: str) -> str:
    data = download.text(address, what=what)
    return _find(data, archive, address)


def read(path: str, archive: str) -> str | None:
    """The digits for ``archive`` in a file; None when there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpecError("checksum", path, f"can't be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            hint = "name a file of checksums"
            raise SpecError("checksum", path, "is not a regular file", hint=hint)
        return _find(os.pread(fd, _LARGEST, 0), archive, path)
    finally:
        os.close(fd)


def _find(data: bytes, archive: str, origin: str) -> str:
    """The strongest checksum of ``archive``; only the last part of its path counts."""
    name = os.path.basename(archive)
    by_length: Dict[int, str] = {}
    for digits, listed in _entries(data.decode("utf-8", "replace")):
        if listed and os.path.basename(listed) != name:
            continue
        if by_length.setdefault(len(digits), digits) != digits:
            hint = "write the right one out, as sha256:HEX"
            raise SpecError("checksum", origin, f"has several checksums for {name}", hint=hint)
    if not by_length:
        hint = "name the file that lists it, or write the checksum out, as sha256:HEX"
        raise SpecError("checksum", origin, f"has no SHA-256 or SHA-512 for {name}", hint=hint)
    return by_length[max(by_length)]


def _entries(text: str) -> Iterator[Tuple[str, str]]:
    """(digits, file name); the name is "" in a file that holds one checksum and nothing else."""
    rows = [row.strip("\r") for row in text.split("\n")]
    alone = [row.strip() for row in rows if row.strip()]
    if len(alone) == 1 and re.fullmatch("[0-9A-Fa-f]+", alone[0]):
        rows = [f"{alone[0]}  "]
    for row in rows:
        entry = _entry(row)
        if entry and len(entry[0]) in _ALGORITHMS:
            yield entry


def _entry(row: str) -> Tuple[str, str] | None:
    bsd = _BSD.fullmatch(row)
    if bsd:
        fits = _ALGORITHMS.get(len(bsd[3])) == bsd[1].lower()
        return (bsd[3].lower(), bsd[2]) if fits else None
    if re.fullmatch("[0-9A-Fa-f]+  ", row):
        return row.strip().lower(), ""
    plain = _COREUTILS.fullmatch(row)
    if not plain:
        return None
    # A leading backslash says that the name is escaped.
    name = plain[3].replace("\\n", "\n").replace("\\\\", "\\") if plain[1] else plain[3]
    return plain[2].lower(), name
