# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The C module below `signal`, whose wrappers turn every number into an enum and cost memory."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
else:
    import _signal as signal

__all__ = ["signal"]
