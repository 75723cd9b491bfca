# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "tarball": a root file system from an archive, verified before anything parses it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from typing import IO, Any, Iterator, Protocol

from ..errors import HostError, SpecError
from ..spec.names import absolute_path
from ..spec.option import Option
from ..spec.quantities import integer, size
from ..spec.text import brief, line, refusal
from .extract import extract, looks_like_html
from .model import MAX_FILES, MAX_SIZE, Image, ImageSpec, Job, Made, Source
from .tarstream import ArchiveError
from .unpack import Bounds

CHUNK = 1 << 20
TIMEOUT = 60.0


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def digest(spec: ImageSpec, known: Image | None = None) -> str | None:
    return _expected(spec)[1]


def _expected(spec: ImageSpec) -> tuple[str, str]:
    algorithm, _, value = str(spec.get("checksum")).partition(":")
    return algorithm, value


def build(job: Job) -> Made:
    """Extract from a private copy that nobody can change after it was verified."""
    spec = job.spec
    bounds = Bounds(spec.get("max_size"), spec.get("max_files"))
    with tempfile.TemporaryFile(dir=job.scratch) as copy:
        with _opened(spec) as source:
            _copy(spec, source, copy, bounds.max_size)
        copy.seek(0)
        try:
            return Made(extract(copy.fileno(), job.root, bounds))
        except ArchiveError as error:
            raise ArchiveError(
                f"image {spec.name!r} from {_origin(spec)}: {error.message}", hint=error.hint
            ) from error


def _origin(spec: ImageSpec) -> str:
    return str(spec.get("path") or spec.get("url").partition("?")[0])


def _copy(spec: ImageSpec, source: _Readable, copy: IO[bytes], limit: int) -> None:
    algorithm, expected = _expected(spec)
    hashed, size, head = hashlib.new(algorithm), 0, b""
    while True:
        chunk = source.read(CHUNK)
        if not chunk:
            break
        head = head or chunk[:512]
        size += len(chunk)
        if size > limit:
            problem = f"image {spec.name!r}: {_origin(spec)} is larger than {limit} bytes"
            raise ArchiveError(problem, hint="raise max_size if that much is right")
        hashed.update(chunk)
        copy.write(chunk)
    copy.flush()
    if hashed.hexdigest() != expected:
        raise _mismatch(spec, f"{algorithm}:{hashed.hexdigest()}", size, head)


def _mismatch(spec: ImageSpec, found: str, size: int, head: bytes) -> ArchiveError:
    what = f"image {spec.name!r}: {_origin(spec)} ({size} bytes"
    what += ", an HTML page)" if looks_like_html(head) else ")"
    return ArchiveError(
        f"{what} has the checksum {found}, not {spec.get('checksum')}",
        hint="correct the checksum if this is the archive you want, or fetch the right one",
    )


@contextlib.contextmanager
def _opened(spec: ImageSpec) -> Iterator[_Readable]:
    if spec.get("url"):
        with _download(spec, spec.get("url")) as response:
            yield response
        return
    path = spec.get("path")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        hint = "path is a file on the managed host; copy the archive there first"
        raise SpecError("path", path, f"can't be read: {error.strerror}", hint=hint) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            hint = "path is an archive, a single file"
            raise SpecError("path", path, "is not a regular file", hint=hint)
        yield stack.enter_context(open(fd, "rb", buffering=0, closefd=False))


@contextlib.contextmanager
def _download(spec: ImageSpec, url: str) -> Iterator[_Readable]:
    # Imported here: it takes longer than all else of a run that has nothing to fetch.
    import urllib.request

    opener = urllib.request.OpenerDirector()
    # A redirection may lead to http and https only: no handler for other schemes.
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    with contextlib.ExitStack() as stack:
        with _explained(spec):
            response = stack.enter_context(opener.open(url, timeout=TIMEOUT))
        yield _Download(spec, response)


@contextlib.contextmanager
def _explained(spec: ImageSpec) -> Iterator[None]:
    import http.client

    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        is_answer = hasattr(error, "code")
        reason = error if is_answer else getattr(error, "reason", error)
        raise HostError(
            f"image {spec.name!r}: {_origin(spec)} can't be downloaded: {reason}",
            hint="check the URL, and that this host may reach it",
        ) from error


class _Download:
    """A response that does not take a lost connection for the end of the file."""

    def __init__(self, spec: ImageSpec, response: IO[bytes]) -> None:
        self._spec = spec
        self._response = response
        length = getattr(response, "length", None)
        self._left: int | None = length if isinstance(length, int) else None

    def read(self, size: int, /) -> bytes:
        with _explained(self._spec):
            chunk = self._response.read(size)
            if self._left is not None:
                self._left -= len(chunk)
                if not chunk and self._left > 0:
                    raise ConnectionError(f"the connection ended {self._left} bytes early")
        return chunk


# -- options


_CHECKSUM = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_URL = re.compile(r"https?://[^/?#@\s]+(?:/[^#\s]*)?", re.I)


def _checksum(option: str, value: Any) -> str:
    text = line(option, value).strip().lower()
    if not _CHECKSUM.fullmatch(text):
        hint = "write sha256: and 64, or sha512: and 128 hexadecimal digits"
        raise refusal(option, value, "is not a checksum", hint=hint)
    return text


def _url(option: str, value: Any) -> str:
    text = line(option, value)
    if not text.isascii() or not _URL.fullmatch(text):
        hint = "write http://HOST/PATH or https://HOST/PATH, without user, password or fragment"
        raise refusal(option, brief(value), "is not a URL that can be fetched", hint=hint)
    return text


def _max_size(option: str, value: Any) -> int:
    return size(option, value, minimum=1 << 10)


def _max_files(option: str, value: Any) -> int:
    return integer(option, value, minimum=1, maximum=100_000_000)


def _check(option: str, spec: ImageSpec) -> None:
    if ("path" in spec.options) == ("url" in spec.options):
        both = "both path and url" if "path" in spec.options else "neither path nor url"
        raise SpecError(option, spec.name, f"has {both}", hint="give one of them")
    if "checksum" not in spec.options:
        hint = "give it as sha256:HEX or sha512:HEX; sha256sum prints the HEX of a file"
        raise SpecError(option, spec.name, "has no checksum", hint=hint)


BOUNDS = (
    Option(
        "max_size",
        "str",
        _max_size,
        ["Most bytes the image may unpack to, such as V(2g)."],
        default=MAX_SIZE,
    ),
    Option("max_files", "int", _max_files, ["Most members it may have."], default=MAX_FILES),
)
SOURCE = Source(
    description="an archive of a root file system",
    digest=digest,
    build=build,
    check=_check,
    settled=True,
    options=(
        Option(
            "path",
            "path",
            absolute_path,
            [
                "Archive on the managed host, plain or compressed with gzip, xz or bzip2. "
                "Either this or O(images[].url) is required."
            ],
        ),
        Option("url", "str", _url, ["Where the managed host fetches the archive, http or https."]),
        Option(
            "checksum",
            "str",
            _checksum,
            [
                "Checksum of the archive, as V(sha256:HEX) or V(sha512:HEX). Required.",
                "It also tells whether the image has changed.",
            ],
        ),
        *BOUNDS,
    ),
)
