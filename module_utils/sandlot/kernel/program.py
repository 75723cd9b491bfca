# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs programs of the host and explains failures.

The launcher's processes import this for the search paths; only ``run`` needs subprocess, which they
must not import.
"""

from __future__ import annotations

import os

from ..errors import HostError
from .confine import PR_SET_PDEATHSIG, prctl
from .signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import CompletedProcess
    from typing import Callable, Mapping, Optional, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The path for programs of the distribution.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    argv: Sequence[str], *, text: Optional[str] = None, env: Optional[Mapping[str, str]] = None
) -> CompletedProcess[str]:
    """Run a program with ``text`` as its input and capture its output.

    Without ``env``, the program inherits our environment. Paths in the output keep their bytes.
    """
    import subprocess

    return subprocess.run(
        argv,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**(os.environ if env is None else env), "LC_ALL": "C"},
        check=False,
    )


def check(argv: Sequence[str], *, env: Optional[Mapping[str, str]] = None, hint: str = "") -> str:
    """The output of a program; HostError with its complaint when it fails."""
    done = run(argv, env=env)
    if done.returncode:
        raise HostError(f"{' '.join(argv)}: {complaint(done)}", hint=hint)
    return done.stdout


def complaint(done: CompletedProcess[str]) -> str:
    """The error text that a program printed."""
    text = (done.stderr or done.stdout).strip() or f"it ended with status {done.returncode}"
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def dying_with_parent() -> Callable[[], None]:
    """A function to call in the child, so that the child ends with this process."""
    parent = os.getpid()

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        # The parent may have died before it could take this child along.
        if os.getppid() != parent:
            os._exit(1)

    return arrange
