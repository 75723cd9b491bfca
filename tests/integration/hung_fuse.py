# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A file system whose server takes every request and answers none but the first (FUSE_INIT)."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Iterator

from sandlot.kernel import mounts

DEVICE = "/dev/fuse"
_MAX_REQUEST = 1 << 18
_IN = struct.Struct("<IIQQIIII")
# out_header, then fuse_init_out: version, readahead, flags, limits, the rest zero.
_INIT = struct.Struct("<IiQ IIIIHHII 32x")
_PROTOCOL = (7, 31)


@contextlib.contextmanager
def hung(target: str, kind: str = "fuse") -> Iterator[int]:
    """Mounted at ``target`` and hanging; the server's pid. Its end frees everybody who waits."""
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    mounts.mount("hung", target, kind, mounts.MS_NOSUID | mounts.MS_NODEV, options)
    pid = os.fork()
    if pid == 0:
        _serve(device)
    os.close(device)
    try:
        yield pid
    finally:
        end(pid)
        with contextlib.suppress(OSError):
            mounts.umount(target)


def _serve(device: int) -> None:
    while True:
        request = os.read(device, _MAX_REQUEST)
        unique = _IN.unpack_from(request)[2]
        if _IN.unpack_from(request)[1] == 26:
            answer = (_INIT.size, 0, unique, *_PROTOCOL, 4096, 0, 12, 10, 4096, 1)
            os.write(device, _INIT.pack(*answer))


def end(pid: int) -> None:
    """Ends the server, and with it the connection: who waits gets an error."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
