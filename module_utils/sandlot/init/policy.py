# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The restart policy: decides after which exits the workload starts again, and how soon."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Tuple

    Saved = Tuple[bool, int, bool, bool, float]

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
# A run of this many seconds counts as a success and resets the back-off.
SETTLED = 10.0
# This many failed runs in a row are a crash loop.
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
        self._restart = restart
        self.stop_signal = int(stop["signal"])
        self.stop_timeout = float(stop["timeout"])

    def saved(self) -> Saved:
        return self.stopping, self._failures, self._unhealthy, self._proven, self._started

    def restore(self, saved: Saved) -> None:
        self.stopping, self._failures, self._unhealthy, self._proven, self._started = saved

    def started(self) -> None:
        self._started = time.monotonic()

    def condemn(self, *, proven: bool) -> None:
        """End this run for its health; another follows, whatever the policy is.

        A run that was never healthy (not ``proven``) has failed, however long it lasted.
        """
        self._unhealthy = True
        self._proven = proven

    @property
    def looping(self) -> bool:
        return self._failures >= CRASH_LOOP

    def restart_delay(self, code: int) -> Optional[float]:
        """Seconds until the next start, None for no further start."""
        unhealthy, self._unhealthy = self._unhealthy, False
        if self.stopping:
            return None
        if time.monotonic() - self._started >= SETTLED and (self._proven or not unhealthy):
            self._failures = 0
        self._failures += 1
        wanted = wants_start(self._restart, self._failures, failed=unhealthy or code != 0)
        # An unhealthy workload that init ended starts again under every policy.
        if not wanted and not (unhealthy and self._restart["policy"] == "no"):
            return None
        return back_off(self._failures)


def wants_start(restart: Mapping[str, Any], failures: int, *, failed: bool) -> bool:
    """Whether another start follows a run; ``failures`` in a row include this one."""
    if restart["policy"] == "on-failure":
        return failed and not 0 < restart["retries"] < failures
    return bool(restart["policy"] != "no")


def back_off(failures: int) -> float:
    """Seconds before start number ``failures`` + 1: doubling from 0.1 to 60."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 16)))
