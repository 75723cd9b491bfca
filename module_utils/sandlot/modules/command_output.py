# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Input and outputs of a command as files in memory, and its result as ansible.builtin.command has
it."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator, NoReturn, Optional

from .. import shell
from ..kernel.files import write_all


class Streams:
    """Descriptors of a command's standard streams; ``stdin`` is None without input."""

    def __init__(self, stdin: Optional[int], stdout: int, stderr: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def to_json(self) -> Dict[str, Any]:
        """Both outputs as text; from ansible-core 2.19 on, a result has to be UTF-8."""
        result: Dict[str, Any] = {}
        for name, fd in (("stdout", self.stdout), ("stderr", self.stderr)):
            data = os.pread(fd, os.fstat(fd).st_size, 0)
            text = data.decode("utf-8", "replace").rstrip("\r\n")
            result.update({name: text, f"{name}_lines": text.splitlines()})
        return result


@contextlib.contextmanager
def streams(stdin: Optional[str]) -> Iterator[Streams]:
    with contextlib.ExitStack() as stack:
        stdin_fd = None if stdin is None else _memory(stack)
        if stdin_fd is not None and stdin is not None:
            write_all(stdin_fd, stdin.encode("utf-8", "surrogateescape"))
            os.lseek(stdin_fd, 0, os.SEEK_SET)
        yield Streams(stdin_fd, _memory(stack), _memory(stack))


def _memory(stack: contextlib.ExitStack) -> int:
    fd = os.memfd_create("stream")
    stack.callback(os.close, fd)
    return fd


def skip(module: shell.Module) -> NoReturn:
    """End a check: what a command would do is unknown."""
    msg = "Command would have run if not in check mode"
    module.exit_json(changed=False, skipped=True, rc=0, msg=msg)


def finish(module: shell.Module, result: Dict[str, Any], problem: str = "") -> Dict[str, Any]:
    """The result of a command; another exit code than 0 is a failure."""
    if problem or result["rc"]:
        module.fail_json(msg=problem or "non-zero return code", **result)
    return result
