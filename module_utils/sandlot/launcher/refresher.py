# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""When names in egress lists are due to be resolved again; a process of its own does it.

The file that the last answers are in tells both: without names there is none, and no timer.
"""

from __future__ import annotations

import os
import time

from .command import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from ..site import Site

INTERVAL = 300.0


class Refresher:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.tried = 0.0

    def wait(self) -> Optional[float]:
        """Seconds until the next one, None when there are no names."""
        try:
            written = os.stat(self.site.names_file).st_mtime
        except FileNotFoundError:
            return None
        # A clock that was set back must not put it off for longer than usual.
        left = max(written, self.tried) + INTERVAL - time.time()
        return min(INTERVAL, max(0.0, left))

    def act(self) -> None:
        """Start the one that is due; one that fails is followed by the next after the interval."""
        if self.wait() != 0.0:
            return
        self.tried = time.time()
        start(self.site, "refresh")
