# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Handles signals by the C module of `signal`, whose wrappers make enums and cost memory."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

__all__ = ["NOT_FORWARDED", "note", "reset", "signal", "wakeup_pipe"]

# Init passes all but these on to the workload. Faults are left to the kernel, which ignores them
# when sent to PID 1 from inside (kill(2)). When init writes into a closed pipe or a full file, its
# SIGPIPE or SIGXFSZ is not the workload's.
NOT_FORWARDED = frozenset(
    int(getattr(signal, f"SIG{name}"))
    for name in "SEGV BUS FPE ILL TRAP SYS KILL STOP PIPE XFSZ".split()
)


def reset() -> None:
    """Undo what a caller may have set: blocked signals, and SIGCHLD ignored.

    A process that ignores SIGCHLD never learns how its children end (wait(2)). Other signals stay
    ignored, as a caller like nohup intends.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def wakeup_pipe() -> int:
    """A descriptor that yields the numbers of signals which ``note`` handles."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def note(_number: int, _frame: object) -> None:
    """Handle a signal: do nothing, as the wake-up descriptor has its number."""
