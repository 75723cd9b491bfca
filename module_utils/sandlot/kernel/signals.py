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

__all__ = ["note", "signal", "wakeup_pipe"]


def wakeup_pipe() -> int:
    """A descriptor that yields the numbers of signals which ``note`` handles."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def note(_number: int, _frame: object) -> None:
    """Handle a signal: do nothing, as the wake-up descriptor has its number."""
