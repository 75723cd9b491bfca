# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""When names in egress lists are due to be resolved again; a process of its own does it.

The file that the last answers are in tells both: without names there is none, and no timer.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

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
        argv = _command(self.site)
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "SANDLOT_ROOT": self.site.root,
        }
        os.posix_spawn(argv[0], argv, environment)


def _command(site: Site) -> List[str]:
    code = (
        f"import sys; sys.path.insert(0, {site.lib!r}); "
        "from sandlot.cli.main import main; sys.exit(main(['refresh']))"
    )
    return [sys.executable, "-I", "-X", "utf8", "-c", code]
