# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Starts a process that resolves the names in egress lists again, every five minutes.

The file of addresses has the time of the last answers. Without names there is no file and no timer.
"""

from __future__ import annotations

import os
import time

from .command import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

    from ..site import Site

INTERVAL = 300.0


class Refresher:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.tried = 0.0
        # Its last one, which may have ended.
        self.children: List[int] = []

    def wait(self) -> Optional[float]:
        """Seconds until the next process is due, None without names."""
        try:
            written = os.stat(self.site.names_file).st_mtime
        except FileNotFoundError:
            return None
        # The wait must not grow when the clock was set back.
        left = max(written, self.tried) + INTERVAL - time.time()
        return min(INTERVAL, max(0.0, left))

    def act(self) -> None:
        """Start the process if it is due; after a failure, the next one waits for the interval."""
        if self.wait() != 0.0:
            return
        self.tried = time.time()
        self.children = [start(self.site, "refresh")]
