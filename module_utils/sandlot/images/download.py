# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Downloads over http and https, retries where that may help, and resumes broken transfers.

The caller compares the checksum before it trusts the data.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Callable, Dict, Iterator, Tuple

from .. import store
from ..errors import HostError, SandlotError
from ..kernel.files import pwrite_all
from .tarstream import ArchiveError

Report = Callable[[str, int, int], None]

CHUNK = 1 << 20
TIMEOUT = 60.0
# Seconds before each retry; an attempt that brings this many bytes starts the row again.
DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
_PROGRESS = 1 << 20
_LONGEST_DELAY = 60.0
# An attempt fails when the server sends fewer bytes than this in TIMEOUT seconds.
_LEAST = 1 << 16
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL = 206
_LARGEST_TEXT = 1 << 20


class Broken(Exception):
    """A failed attempt; ``after`` is the delay that the server asks for (Retry-After)."""

    def __init__(self, reason: object, *, again: bool = True, after: float = 0.0) -> None:
        super().__init__(str(reason))
        self.again = again
        self.after = after


def shown(url: str) -> str:
    """The URL for messages, without its query, which may hold a token."""
    return url.partition("?")[0]


def text(url: str, *, what: str) -> bytes:
    """Download a small text. No redirection may lead from https to http: no checksum covers it."""
    content = b""

    def attempt() -> None:
        nonlocal content
        with _response(url, {}, downgrade=False) as response:
            with _network():
                content = response.read(_LARGEST_TEXT + 1)

    _persist(attempt, lambda: 0, url, what)
    if len(content) > _LARGEST_TEXT:
        problem = f"{what}: {shown(url)} is larger than {_LARGEST_TEXT} bytes"
        raise HostError(problem, hint="name a file of checksums")
    return content


class Download:
    """A download in its own directory; later attempts and runs resume it."""

    def __init__(self, directory: str, url: str, *, limit: int, what: str, report: Report) -> None:
        self._url, self._limit, self._what, self._report = url, limit, what, report
        self._origin = f"{directory}/origin.json"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(f"{directory}/data", flags, 0o600)
        self.resumed = self._size() > 0

    def _size(self) -> int:
        return os.fstat(self.fd).st_size

    def restart(self) -> None:
        os.ftruncate(self.fd, 0)
        self.resumed = False

    def is_whole(self) -> bool:
        """Whether the file has its announced size; the caller still has to verify it."""
        return self._size() > 0 and self._known().get("total") == self._size()

    def run(self) -> None:
        """Download the missing part; HostError when all attempts have failed."""
        _persist(self._attempt, self._size, self._url, self._what)

    def _known(self) -> Dict[str, Any]:
        with contextlib.suppress(SandlotError):
            return store.read(self._origin) or {}
        return {}

    def _attempt(self) -> None:
        have = self._size()
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            validator = self._known().get("validator")
            if validator:
                headers["If-Range"] = validator
        try:
            with _response(self._url, headers) as response:
                self._receive(response, have)
        except Broken as broken:
            if have and getattr(broken.__cause__, "code", 0) == _RANGE_NOT_SATISFIABLE:
                self.restart()
                raise Broken(broken, again=True) from broken
            raise

    def _receive(self, response: Any, have: int) -> None:
        start, total = _extent(response)
        if start != have:
            # The server sends the whole file: it can't resume, or the file has changed.
            self.restart()
            if start:
                raise Broken("the server sent another part than was asked for")
        if total > self._limit:
            raise too_large(self._what, self._url, self._limit)
        if not start:
            # If-Range takes a strong entity tag, or a date.
            tag = response.headers.get("ETag", "")
            validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
            origin = {"validator": str(validator), "total": total}
            store.write(self._origin, origin, durable=False)
        self._copy(response, start, total)

    def _copy(self, response: Any, position: int, total: int) -> None:
        since, mark = time.monotonic(), position
        while True:
            self._report("download", position, total)
            with _network():
                chunk = response.read1(CHUNK)
            if not chunk:
                break
            pwrite_all(self.fd, chunk, position)
            position += len(chunk)
            if position > self._limit:
                raise too_large(self._what, self._url, self._limit)
            if time.monotonic() - since > TIMEOUT:
                if position - mark < _LEAST:
                    raise Broken(f"less than {_LEAST} bytes arrived in {TIMEOUT:.0f} seconds")
                since, mark = time.monotonic(), position
        if total and position < total:
            raise Broken(f"the connection ended {total - position} bytes early")


def too_large(what: str, url: str, limit: int) -> ArchiveError:
    problem = f"{what}: {shown(url)} is larger than {limit} bytes"
    return ArchiveError(problem, hint="raise max_size if that much is right")


def _extent(response: Any) -> Tuple[int, int]:
    """The body's offset in the file, and the file's size, 0 when the server does not tell."""
    if response.status != _PARTIAL:
        return 0, response.length or 0
    # bytes FIRST-LAST/TOTAL, where TOTAL may be an asterisk
    span, dummy, total = response.headers.get("Content-Range", "").partition("/")
    first = span.rpartition(" ")[2].partition("-")[0]
    if not first.isdigit():
        raise Broken("the server sent a part of the file without saying which")
    if total.isdigit():
        return int(first), int(total)
    return int(first), int(first) + response.length if response.length else 0


# -- attempts


def _persist(attempt: Callable[[], None], size: Callable[[], int], url: str, what: str) -> None:
    failures = 0
    while True:
        before = size()
        try:
            attempt()
            return
        except Broken as broken:
            if size() - before >= _PROGRESS:
                failures = 0
            if not broken.again or failures == len(DELAYS):
                raise HostError(
                    f"{what}: {shown(url)} can't be downloaded: {broken}",
                    hint="check the URL, the proxy, and that this host may reach it",
                ) from broken
            time.sleep(max(DELAYS[failures], min(broken.after, _LONGEST_DELAY)))
            failures += 1


@contextlib.contextmanager
def _response(url: str, headers: Dict[str, str], *, downgrade: bool = True) -> Iterator[Any]:
    # Imported here: the import takes longer than a whole run without downloads.
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "sandlot", **headers})
    with contextlib.ExitStack() as stack:
        with _network():
            opened = _opener(downgrade=downgrade).open(request, timeout=TIMEOUT)
            response = stack.enter_context(opened)
        yield response


def _opener(*, downgrade: bool) -> Any:
    import urllib.error
    import urllib.request

    class Redirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request: Any, *rest: Any) -> Any:
            if not downgrade and request.type == "https" and rest[-1].startswith("http:"):
                raise urllib.error.URLError(f"it leads from https to {shown(rest[-1])}")
            return super().redirect_request(request, *rest)

    opener = urllib.request.OpenerDirector()
    # No handlers for other schemes, so that a redirection leads to http and https only.
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        Redirect,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Raise errors of the network as Broken."""
    import http.client
    import urllib.error

    try:
        yield
    except urllib.error.HTTPError as error:
        after = error.headers.get("Retry-After", "")
        again = error.code in _TRANSIENT
        error.close()
        raise Broken(error, again=again, after=float(after) if after.isdigit() else 0) from error
    except urllib.error.URLError as error:
        raise Broken(error.reason, again=_may_pass(error.reason)) from error
    except http.client.InvalidURL as error:
        raise Broken(error, again=False) from error
    except (OSError, http.client.HTTPException) as error:
        raise Broken(error or type(error).__name__, again=_may_pass(error)) from error


def _may_pass(reason: object) -> bool:
    """Whether a retry may help: not after a bad certificate, nor a refusal by urllib (a text)."""
    import ssl

    return isinstance(reason, Exception) and not isinstance(reason, ssl.SSLCertVerificationError)
