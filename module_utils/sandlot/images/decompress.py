# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Decompresses zstd by the program zstd, in a child without rights; Python can't before 3.14."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from typing import IO, Callable, Iterator, cast

from ..errors import HostError
from ..kernel.confine import PR_SET_NO_NEW_PRIVS, load_seccomp, prctl, set_capabilities
from ..kernel.namespaces import unshare
from ..kernel.program import dying_with_parent, start
from ..security import seccomp
from .tarstream import ArchiveError

_ZSTD = b"\x28\xb5\x2f\xfd"
# Bytes 2 to 4 of a skippable frame (RFC 8878, 3.1.2), with which pzstd begins its files.
_SKIPPABLE = b"\x2a\x4d\x18"
_NOBODY = 65534
_MEMORY = 2 << 30
# Archives of zstd --ultra --long=30 need that much memory.
_WINDOW = "1024MB"
_SECONDS = 3600
_FILES = 32
# CLONE_NEWNS, NEWUTS, NEWIPC, NEWNET
_NAMESPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x40000000
_LONGEST_COMPLAINT = 500
_FETCH_AGAIN = "make or fetch the archive again, and update its checksum"


@contextlib.contextmanager
def readable(fd: int) -> Iterator[int]:
    """A descriptor for the extractor: ``fd`` itself, or the output of zstd."""
    head = os.pread(fd, len(_ZSTD), 0)
    if head != _ZSTD and not (head[1:] == _SKIPPABLE and head[0] >> 4 == 5):
        yield fd
        return
    program = shutil.which("zstd")
    if program is None:
        hint = "install the Debian package zstd, or use gzip or xz"
        raise HostError("the archive is compressed with zstd, which this host lacks", hint=hint)
    with _helper([program, "-dcq", f"--memory={_WINDOW}"], fd) as helper:
        try:
            yield cast(IO[bytes], helper.stdout).fileno()
        except ArchiveError as error:
            complaint = _complaint(helper)
            if not complaint:
                raise
            raise ArchiveError(complaint, hint=error.hint) from error
        complaint = _complaint(helper)
        if complaint:
            raise ArchiveError(complaint, hint=_FETCH_AGAIN)


@contextlib.contextmanager
def _helper(command: list[str], fd: int) -> Iterator[subprocess.Popen[bytes]]:
    os.lseek(fd, 0, os.SEEK_SET)
    with start(
        command,
        stdin=fd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C"},
        cwd="/",
        bufsize=0,
        preexec_fn=_confined(seccomp.program() or b""),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _confined(program: bytes) -> Callable[[], None]:
    die_with_parent = dying_with_parent()

    def confine() -> None:
        unshare(_NAMESPACES)
        for limit, value in (
            (resource.RLIMIT_AS, _MEMORY),
            (resource.RLIMIT_CPU, _SECONDS),
            (resource.RLIMIT_NOFILE, _FILES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        set_capabilities(0, 0, 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        # After setuid, as the kernel clears the death signal when ids change.
        die_with_parent()
        load_seccomp(program)

    return confine


def _complaint(helper: subprocess.Popen[bytes]) -> str:
    """The error that zstd printed, when it ended before the extractor did; else ""."""
    # If zstd still writes, SIGPIPE ends it.
    cast(IO[bytes], helper.stdout).close()
    status = helper.wait()
    stderr = cast(IO[bytes], helper.stderr).fileno()
    complaint = os.read(stderr, _LONGEST_COMPLAINT) if status else b""
    if status == -signal.SIGPIPE or not complaint:
        return ""
    text = complaint.decode("utf-8", "replace").strip().replace("\n", "; ")
    return f"the archive is truncated or corrupt: zstd: {text}"
