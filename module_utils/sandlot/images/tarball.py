# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "tarball": a root file system from an archive, verified before anything parses it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import tempfile
import urllib.parse
from typing import IO, Any, Callable, Iterator

from ..errors import SpecError
from ..kernel.trees import remove_entry
from ..spec.names import absolute_path
from ..spec.option import Option
from ..spec.quantities import integer, size
from ..spec.text import choice, line
from . import checksums, workspace
from .download import CHUNK, Download, too_large
from .extract import extract, looks_like_html
from .model import MAX_FILES, MAX_SIZE, Built, Image, ImageSpec, Job, Source
from .tarstream import ArchiveError
from .unpack import Bounds

ORIGINS = ("path", "url", "src")
_PULL = ("missing", "always")


def digest(spec: ImageSpec, known: Image | None = None) -> str | None:
    """The archive's checksum. A checksum file at a URL is downloaded once, unless ``pull`` says
    otherwise; every run reads a file on the host."""
    given = str(spec.get("checksum"))
    literal = checksums.literal(given)
    if literal:
        return literal
    if given.startswith("/"):
        return checksums.read(given, _file_name(spec))
    names = (*ORIGINS, "checksum")
    same = known and all(spec.get(name) == known.parameters.get(name) for name in names)
    if known and same and spec.get("pull") != "always":
        return known.base
    return checksums.fetched(given, _file_name(spec), f"image {spec.name!r}")


def _file_name(spec: ImageSpec) -> str:
    url = spec.get("url")
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path) if url else _origin(spec)
    return os.path.basename(path)


def _origin(spec: ImageSpec) -> str:
    """The archive's origin for messages, without the query, which may hold a token."""
    return str(next(spec.get(name) for name in ORIGINS if spec.get(name))).partition("?")[0]


def build(job: Job) -> Built:
    """Extract from a private copy, which nobody can change after the verification."""
    spec = job.spec
    bounds = Bounds(spec.get("max_size"), spec.get("max_files"))
    with contextlib.ExitStack() as stack:
        if spec.get("url"):
            fd = stack.enter_context(_downloaded(job, bounds.max_size))
        else:
            copy = stack.enter_context(tempfile.TemporaryFile(dir=job.scratch))
            _copy(job, copy, bounds.max_size)
            fd = copy.fileno()

        def report_read() -> None:
            # The extractor shares the offset of this descriptor.
            job.report("unpack", os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size)

        try:
            os.lseek(fd, 0, os.SEEK_SET)
            return Built(extract(fd, job.root, bounds, report_read))
        except ArchiveError as error:
            raise ArchiveError(
                f"image {spec.name!r} from {_origin(spec)}: {error.message}", hint=error.hint
            ) from error


@contextlib.contextmanager
def _downloaded(job: Job, limit: int) -> Iterator[int]:
    """Download and verify the archive; after a broken connection or a kill it is resumed."""
    workspace.private_directory(job.kept)
    what = f"image {job.spec.name!r}"
    arrived = Download(job.kept, job.spec.get("url"), limit=limit, what=what, report=job.report)
    try:
        _fetch(job, arrived)
        yield arrived.fd
    except (ArchiveError, OSError):
        # The file is wrong or can't be stored: the next run must not resume it.
        remove_entry(job.kept)
        raise
    finally:
        os.close(arrived.fd)


def _fetch(job: Job, arrived: Download) -> None:
    if not arrived.is_whole():
        arrived.run()
    resumed = arrived.resumed
    try:
        _verify(job, arrived.fd)
    except ArchiveError:
        if not resumed:
            raise
        # The two parts may come from different versions of the file.
        arrived.restart()
        arrived.run()
        _verify(job, arrived.fd)


def _verify(job: Job, fd: int) -> None:
    total = os.fstat(fd).st_size
    hashed = hashlib.new(checksums.algorithm(job.digest))
    position = 0
    while position < total:
        chunk = os.pread(fd, CHUNK, position)
        if not chunk:
            break
        hashed.update(chunk)
        position += len(chunk)
        job.report("verify", position, total)
    if hashed.hexdigest() != job.digest:
        raise _mismatch(job, hashed.hexdigest(), total, os.pread(fd, 512, 0))


def _copy(job: Job, copy: IO[bytes], limit: int) -> None:
    """Copy and verify at once."""
    hashed, done = hashlib.new(checksums.algorithm(job.digest)), 0
    head = b""
    with _opened(job.spec) as source:
        total = os.fstat(source.fileno()).st_size
        for chunk in iter(functools.partial(source.read, CHUNK), b""):
            head = head or chunk[:512]
            done += len(chunk)
            if done > limit:
                raise too_large(f"image {job.spec.name!r}", _origin(job.spec), limit)
            hashed.update(chunk)
            copy.write(chunk)
            job.report("copy", done, total)
    copy.flush()
    if hashed.hexdigest() != job.digest:
        raise _mismatch(job, hashed.hexdigest(), done, head)


def _mismatch(job: Job, actual: str, size: int, head: bytes) -> ArchiveError:
    what = f"image {job.spec.name!r}: {_origin(job.spec)} ({size} bytes"
    what += ", an HTML page)" if looks_like_html(head) else ")"
    kind = checksums.algorithm(job.digest)
    return ArchiveError(
        f"{what} has the checksum {kind}:{actual}, not {kind}:{job.digest}",
        hint="correct the checksum if this is the archive you want, or fetch the right one",
    )


@contextlib.contextmanager
def _opened(spec: ImageSpec) -> Iterator[IO[bytes]]:
    option = "path" if spec.get("path") else "src"
    path = spec.get("path") or spec.get("uploaded")
    if not path:
        hint = "add plugins/action to action_plugins: it copies the archive from the controller"
        raise SpecError("src", spec.get("src"), "has not been copied to this host", hint=hint)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        hint = "path is a file on the managed host; use src for one on the controller"
        raise SpecError(option, path, f"can't be read: {error.strerror}", hint=hint) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            hint = "name an archive, a single file"
            raise SpecError(option, path, "is not a regular file", hint=hint)
        yield stack.enter_context(open(fd, "rb", buffering=0, closefd=False))


# -- options


def _check(option: str, spec: ImageSpec) -> None:
    given = [name for name in ORIGINS if name in spec.options]
    if len(given) != 1:
        what = f"both {' and '.join(given)}" if given else "neither path, url nor src"
        raise SpecError(option, spec.name, f"has {what}", hint="give one of them")
    if "checksum" not in spec.options:
        hint = "give it as sha256:HEX or sha512:HEX; sha256sum prints the HEX of a file"
        raise SpecError(option, spec.name, "has no checksum", hint=hint)


_pull: Callable[[str, Any], str] = functools.partial(choice, choices=_PULL)
BOUNDS = (
    Option(
        "max_size",
        "str",
        functools.partial(size, minimum=1 << 10),
        ["Most bytes the image may unpack to, such as V(2g)."],
        numeric=True,
        default=MAX_SIZE,
    ),
    Option(
        "max_files",
        "int",
        functools.partial(integer, minimum=1, maximum=100_000_000),
        ["Most members it may have."],
        default=MAX_FILES,
    ),
)
SOURCE = Source(
    description="an archive of a root file system",
    digest=digest,
    build=build,
    check=_check,
    settled=True,
    # ``pull`` says when to ask; it does not change the image.
    secret=frozenset({"pull"}),
    options=(
        Option(
            "path",
            "path",
            absolute_path,
            [
                "Archive on the managed host, plain or compressed with gzip, xz, bzip2 or zstd. "
                "This, O(url) or O(src) is required."
            ],
        ),
        Option(
            "url",
            "str",
            checksums.url,
            [
                "Where the managed host fetches the archive, http or https. "
                "A transfer that breaks off is resumed, by the next run as well.",
                "Proxies are taken from the environment of the module.",
            ],
        ),
        Option(
            "src",
            "str",
            line,
            [
                "Archive on the controller, found like files of M(ansible.builtin.copy). "
                "It is copied to hosts that don't have the image yet."
            ],
        ),
        Option(
            "checksum",
            "str",
            checksums.checksum,
            [
                "Checksum of the archive, as V(sha256:HEX) or V(sha512:HEX), or the URL or path of "
                "a file that lists it (C(SHA256SUMS)). Required.",
                "It also tells whether the image has changed. A file of checksums that is given by "
                "its path is on the managed host, and read by each run.",
            ],
        ),
        Option(
            "pull",
            "str",
            _pull,
            [
                "When to ask for a file of checksums at a URL.",
                "V(missing) asks when there is no image yet, or its options have changed.",
                "V(always) asks in each run, and replaces the image when the file says so.",
            ],
            default="missing",
            choices=_PULL,
        ),
        *BOUNDS,
    ),
)
