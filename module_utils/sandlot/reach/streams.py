# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Input and outputs of a command as files in memory, which a limit of its output bounds."""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, Optional, Tuple

from ..kernel.files import write_all


class Streams:
    """Descriptors of a command's standard streams; ``stdin`` is None without input."""

    def __init__(self, stdin: Optional[int], stdout: int, stderr: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def written(self) -> Tuple[bytes, bytes]:
        """The content of both outputs."""
        stdout, stderr = (
            os.pread(fd, os.fstat(fd).st_size, 0) for fd in (self.stdout, self.stderr)
        )
        return stdout, stderr


@contextlib.contextmanager
def streams(stdin: Optional[bytes]) -> Iterator[Streams]:
    with contextlib.ExitStack() as stack:
        stdin_fd = None if stdin is None else _memory(stack)
        if stdin_fd is not None and stdin is not None:
            write_all(stdin_fd, stdin)
            os.lseek(stdin_fd, 0, os.SEEK_SET)
        yield Streams(stdin_fd, _memory(stack), _memory(stack))


def _memory(stack: contextlib.ExitStack) -> int:
    fd = os.memfd_create("stream")
    stack.callback(os.close, fd)
    return fd
