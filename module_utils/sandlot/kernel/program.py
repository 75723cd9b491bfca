# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs programs of the host and explains failures.

The launcher's processes import this for the search paths; only ``start`` and ``run`` need
subprocess, which they must not import.
"""

from __future__ import annotations

import os

from ..errors import HostError
from .confine import PR_SET_PDEATHSIG, prctl
from .signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import CompletedProcess, Popen
    from typing import IO, Any, Callable, Mapping, Optional, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The path for programs of the distribution.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def start(argv: Sequence[str], **options: Any) -> Popen[Any]:
    """Start a program as subprocess.Popen does."""
    import subprocess

    _require_exit_codes(argv)
    # The engine also runs without Ansible, which has run_command.
    return subprocess.Popen(argv, **options)  # pylint: disable=ansible-bad-function


def run(
    argv: Sequence[str], *, text: Optional[str] = None, env: Optional[Mapping[str, str]] = None
) -> CompletedProcess[str]:
    """Run a program with ``text`` as its input and capture its output.

    Without ``env``, the program inherits our environment. Paths in the output keep their bytes.
    """
    import subprocess

    _require_exit_codes(argv)
    # Into memory: nft writes each element of a set by itself, and a pipe would wake us for each.
    with _captured() as output, _captured() as complaints:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            argv,
            input=None if text is None else text.encode("utf-8", "surrogateescape"),
            stdin=subprocess.DEVNULL if text is None else None,
            stdout=output,
            stderr=complaints,
            env={**(os.environ if env is None else env), "LC_ALL": "C"},
            check=False,
        )
        for file in (output, complaints):
            file.seek(0)
        texts = output.read(), complaints.read()
    return subprocess.CompletedProcess(argv, done.returncode, *texts)


def _captured() -> IO[str]:
    return open(os.memfd_create("output"), "w+", encoding="utf-8", errors="surrogateescape")


def _require_exit_codes(argv: Sequence[str]) -> None:
    """Refuse to run a program whose failure would go unseen.

    While SIGCHLD is ignored, the kernel drops exit codes (wait(2)), and subprocess reports 0.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        raise HostError(
            f"{argv[0]}: its exit code would be lost, as this process ignores SIGCHLD",
            hint="run it from a process that does not ignore SIGCHLD (trap - CHLD)",
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
