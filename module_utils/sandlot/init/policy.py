# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Restart policy: which exits are followed by another start, and how soon."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
# A run of this many seconds counts as a success and resets the back-off.
SETTLED = 10.0
# So many runs in a row that were no success are a crash loop.
CRASH_LOOP = 5


class Policy:
    """docker's restart policies: no, on-failure[:retries], always, unless-stopped."""

    def __init__(self, restart: Mapping[str, Any], stop: Mapping[str, Any]) -> None:
        self.stopping = False
        self._failures = 0
        self._unhealthy = False
        self._proven = True
        self._started = time.monotonic()
        self.configure(restart, stop)

    def configure(self, restart: Mapping[str, Any], stop: Mapping[str, Any]) -> None:
        self._name = restart["policy"]
        self._retries = restart["retries"]
        self.stop_signal = int(stop["signal"])
        self.stop_timeout = float(stop["timeout"])

    def started(self) -> None:
        self._started = time.monotonic()

    def condemn(self, *, proven: bool) -> None:
        """The run is being ended for its health and another follows, whatever the policy is.

        ``proven`` is one that has been healthy; the others are no success however long they ran.
        """
        self._unhealthy = True
        self._proven = proven

    @property
    def looping(self) -> bool:
        return self._failures >= CRASH_LOOP

    def _restarts_after(self, code: int) -> bool:
        return self._name != "no" and not (self._name == "on-failure" and code == 0)

    def restart_delay(self, code: int) -> Optional[float]:
        """Seconds until the next start, None when there is none."""
        unhealthy, self._unhealthy = self._unhealthy, False
        if self.stopping or not (unhealthy or self._restarts_after(code)):
            return None
        if time.monotonic() - self._started >= SETTLED and (self._proven or not unhealthy):
            self._failures = 0
        self._failures += 1
        if self._name == "on-failure" and 0 < self._retries < self._failures:
            return None
        return back_off(self._failures)


def back_off(failures: int) -> float:
    """Seconds before start number ``failures`` + 1: doubling from 0.1 to 60."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 16)))
