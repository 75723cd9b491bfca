# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "tarball": a root file system from an archive, verified before anything parses it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from typing import IO, Iterator, Protocol

from ..errors import HostError, SpecError
from .extract import extract, looks_like_html
from .model import MAX_FILES, MAX_SIZE, ImageSpec
from .tarstream import ArchiveError
from .unpack import Bounds

CHUNK = 1 << 20
TIMEOUT = 60.0


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def digest(spec: ImageSpec) -> str | None:
    return _expected(spec)[1]


def _expected(spec: ImageSpec) -> tuple[str, str]:
    algorithm, _, value = (spec.checksum or "").partition(":")
    return algorithm, value


def build(spec: ImageSpec, root: str) -> list[str]:
    """Extract from a private copy that nobody can change after it was verified."""
    bounds = Bounds(spec.max_size or MAX_SIZE, spec.max_files or MAX_FILES)
    with tempfile.TemporaryFile(dir=os.path.dirname(root)) as copy:
        with _opened(spec) as source:
            _copy(spec, source, copy, bounds.max_size)
        copy.seek(0)
        try:
            return extract(copy.fileno(), root, bounds)
        except ArchiveError as error:
            raise ArchiveError(
                f"image {spec.name!r} from {_origin(spec)}: {error.message}", hint=error.hint
            ) from error


def _origin(spec: ImageSpec) -> str:
    return spec.path or (spec.url or "").partition("?")[0]


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
        f"{what} has the checksum {found}, not {spec.checksum}",
        hint="correct the checksum if this is the archive you want, or fetch the right one",
    )


@contextlib.contextmanager
def _opened(spec: ImageSpec) -> Iterator[_Readable]:
    if spec.url:
        with _download(spec, spec.url) as response:
            yield response
        return
    path = spec.path or ""
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
