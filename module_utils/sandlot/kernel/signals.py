# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The C module below `signal`, whose wrappers turn every number into an enum and cost memory."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
else:
    import _signal as signal

__all__ = ["note", "signal", "wakeup_pipe"]


def wakeup_pipe() -> int:
    """A descriptor to read the numbers of signals from, when ``note`` handles them."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def note(_number: int, _frame: object) -> None:
    """The handler: the wake-up descriptor has the number."""
