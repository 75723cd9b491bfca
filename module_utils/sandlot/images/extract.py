# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Extracts an archive in a confined child whose root directory is the destination."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import locale
import lzma
import os
import resource
import signal
import sys
import zlib
from typing import Any, Callable, Dict, Sequence, cast

from ..kernel import fork
from ..kernel.confine import PR_SET_NO_NEW_PRIVS, prctl, set_capabilities
from ..kernel.files import NO_ROOM
from ..kernel.program import dying_with_parent
from . import decompress
from .tarstream import BLOCK, CHUNK, ArchiveError, Stream, TarStream, is_header
from .unpack import SPACE, Bounds, Unpacker

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID: enough to write files with any owner and mode.
_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4
_MEMORY = 2 << 30
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
# Unpacking 8 GiB of xz takes a few minutes; an endless stream must end.
_SECONDS = 3600
# Archives end with zeros that fill a tape's record.
_PADDING = 1 << 20

Outcome = Dict[str, Any]


def extract(
    fd: int, destination: str, bounds: Bounds, watch: Callable[[], None] | None = None
) -> list[str]:
    """Unpack the archive ``fd`` into an empty directory; returns warnings.

    The offset of ``fd`` shows the progress; ``watch`` may read it.
    """
    with decompress.readable(fd) as stream:
        return confined([stream], destination, lambda: _outcome(stream, bounds), watch)


def confined(
    fds: Sequence[int],
    destination: str,
    work: Callable[[], Outcome],
    watch: Callable[[], None] | None = None,
    *,
    rights: int = 0,
) -> list[str]:
    """Run ``work`` in a child whose root is ``destination``, with these files; its warnings.

    Meanwhile, ``watch`` is called now and then. ``rights`` are capabilities beyond the usual.
    """
    die_with_parent = dying_with_parent()

    def child(report: int) -> bytes:
        _confine({*fds, report}, destination, _CAPABILITIES | rights)
        die_with_parent()
        return json.dumps(work()).encode()

    text, status = fork.call(child, watch)
    if not text:
        raise ArchiveError(f"the extracting process {_ending(status)}")
    outcome = json.loads(text)
    if outcome["error"]:
        raise ArchiveError(outcome["error"], hint=outcome["hint"])
    return list(outcome["warnings"])


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return f"has taken more than {_SECONDS} seconds of the processor"
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"


def _confine(kept: set[int], destination: str, capabilities: int = _CAPABILITIES) -> None:
    # Other locales look up the texts of errors in files, which would be the image's.
    locale.setlocale(locale.LC_ALL, "C")
    # No import may read a module from the image; all needed modules are imported by now.
    sys.meta_path.clear()
    os.chroot(destination)
    os.chdir("/")
    os.umask(0o022)
    bounds = [-1, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in zip(bounds, bounds[1:]):
        # Python passes an empty range that begins with 0 on as one without an end.
        if low + 1 < high:
            os.closerange(low + 1, high)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 10))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    set_capabilities(capabilities, capabilities, 0)


def _outcome(fd: int, bounds: Bounds) -> Outcome:
    def work() -> list[str]:
        with open(fd, "rb", closefd=False) as raw:
            stream = open_archive(raw)
            warnings = Unpacker(TarStream(stream), bounds).run()
            drain(stream, bounds.max_size)
            return warnings

    return explained(work)


def drain(stream: Stream, limit: int) -> None:
    """Read what follows the archive: the checksum of compressed data comes last."""
    rest = 0
    while True:
        chunk = stream.read(CHUNK)
        if not chunk:
            return
        rest += len(chunk)
        if rest > limit + _PADDING:
            raise ArchiveError(f"more than {limit} bytes follow its end")


def explained(work: Callable[[], list[str]]) -> Outcome:
    """The warnings of ``work``, or an error that names the archive's fault."""
    error, hint, warnings = "", "", []
    try:
        warnings = work()
    except ArchiveError as problem:
        error, hint = problem.message, problem.hint
    except DAMAGED as problem:
        error = f"the archive is truncated or corrupt: {problem}"
        hint = "make or fetch the archive again, and update its checksum"
    except MemoryError:
        error = f"unpacking the archive takes more than {_MEMORY} bytes of memory"
    except OSError as problem:
        error = f"unpacking the archive failed: {problem.strerror or problem}"
        hint = SPACE if problem.errno in NO_ROOM else ""
    return {"error": error, "hint": hint, "warnings": warnings}


def open_archive(raw: io.BufferedReader) -> Stream:
    """The uncompressed stream; the first bytes tell the compression."""
    head = raw.peek(BLOCK)[:BLOCK]
    if head.startswith(b"\x1f\x8b"):
        return cast(Stream, gzip.GzipFile(fileobj=raw))
    if head.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(raw)
    _check_plain(head)
    return raw


def _check_plain(head: bytes) -> None:
    hint = "use a tar archive, plain or compressed with gzip, xz, bzip2 or zstd"
    if looks_like_html(head):
        raise ArchiveError("it is an HTML page and no archive", hint="check the URL")
    # v7 archives have no magic; a pipe may give less than a block at first.
    if len(head) == BLOCK and any(head) and head[257:262] != b"ustar" and not is_header(head):
        raise ArchiveError("it is not a tar archive", hint=hint)


def looks_like_html(data: bytes) -> bool:
    return data.lstrip()[:1] == b"<"
