# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs a program of the host that builds an image, so that none of its processes outlives us.

The program gets a pid and a mount namespace of its own: when it or this process ends, the kernel
ends every process in there and removes every mount.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import subprocess
from typing import IO, Callable, Deque, Dict, Sequence, cast

from ..errors import HostError
from ..kernel.confine import load_seccomp
from ..kernel.program import PATH, dying_with_parent, start
from ..security import seccomp

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
# A mount and a pid namespace: nothing outlives the program.
ISOLATED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_LAST_LINES = 15
_LONGEST_LINE = 4096


def find(names: Sequence[str]) -> str | None:
    """The path of the first of these programs that the host has."""
    paths = (shutil.which(name, path=PATH) for name in names)
    return next((path for path in paths if path), None)


def environment(**more: str) -> Dict[str, str]:
    """A small environment: a few variables, and the proxies of this process."""
    return {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **proxies(), **more}


def proxies() -> Dict[str, str]:
    names = [*_PROXIES, *(name.upper() for name in _PROXIES)]
    return {name: os.environ[name] for name in names if name in os.environ}


def run(
    argv: Sequence[str],
    *,
    what: str,
    env: Dict[str, str],
    output: int | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    unsynced: bool = False,
) -> None:
    """Run a program to its end; HostError with its last lines if it fails.

    Each line that it prints goes to ``on_line``. ``output`` is a descriptor for its stdout; without
    one, lines of stdout count too. With ``unsynced``, the program does not wait for disks.
    """
    last: Deque[str] = collections.deque(maxlen=_LAST_LINES)
    process = start(
        [*ISOLATED, "--mount-proc", *argv],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.STDOUT if output is None else subprocess.PIPE,
        preexec_fn=_arranged(seccomp.unsynced() if unsynced else b""),
        # Its files are for all users of the image, whatever the umask of the deploy.
        umask=0o022,
    )
    with process:
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            stream = process.stdout if output is None else process.stderr
            _listen(cast(IO[bytes], stream), last, on_line)
            stack.pop_all()
    if process.returncode:
        lines = "\n".join(last) or "it said nothing"
        raise HostError(f"{what} ended with status {process.returncode}:\n{lines}")


def _arranged(calls: bytes) -> Callable[[], None]:
    arrange = dying_with_parent()

    def arrange_all() -> None:
        arrange()
        if calls:
            load_seccomp(calls)

    return arrange_all


def _listen(stream: IO[bytes], last: Deque[str], on_line: Callable[[str], None]) -> None:
    while True:
        raw = stream.readline(_LONGEST_LINE)
        if not raw:
            return
        line = raw.decode("utf-8", "replace").strip()
        if line:
            last.append(line)
            on_line(line)
