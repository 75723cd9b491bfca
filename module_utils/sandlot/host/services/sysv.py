# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The service in sysvinit, an init script."""

from __future__ import annotations

import glob
import os

from ...site import Site
from .script import NAME, UPDATE_RC, ScriptService

# LSB: 2 for bad arguments, 3 for "not running", 4 for no permission, 5 for "not installed".
_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          sandlot
# Required-Start:    $local_fs $remote_fs $network
# Required-Stop:     $local_fs $remote_fs $network
# Should-Start:      nftables firewalld cgroupfs-mount
# Should-Stop:       nftables firewalld cgroupfs-mount
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Sandboxes of sandlot
# Description:       Keeps the launcher running and starts the sandboxes after a boot;
#                    ends them at a shutdown.
### END INIT INFO

SERVICE={keeper}

case "$1" in
start|stop|restart|reload|force-reload|try-restart|status|keep) ;;
*)
    echo "Usage: $0 {{start|stop|restart|try-restart|reload|force-reload|status}}" >&2
    exit 2
    ;;
esac
[ -x "$SERVICE" ] || {{ echo "sandlot is not installed" >&2; exit 5; }}
[ "$(id -u)" = 0 ] || {{ echo "only root can manage sandboxes" >&2; exit 4; }}
case "$1" in
restart) "$SERVICE" stop && "$SERVICE" start ;;
try-restart) "$SERVICE" status >/dev/null || exit 0; "$SERVICE" stop && "$SERVICE" start ;;
force-reload) "$SERVICE" reload ;;
*) "$SERVICE" "$1" ;;
esac
"""


class Sysvinit(ScriptService):
    kind = "sysvinit"
    template = _SCRIPT

    @classmethod
    def is_present(cls, site: Site) -> bool:
        needed = ("/etc/inittab", "/etc/rc2.d", UPDATE_RC)
        return all(os.path.exists(f"{site.root}{path}") for path in needed)

    def enabled(self) -> bool:
        """Whether every runlevel has its link."""
        links = (*(f"rc{level}.d/S" for level in "2345"), *(f"rc{level}.d/K" for level in "016"))
        return all(glob.glob(f"{self.site.root}/etc/{link}??{NAME}") for link in links)

    def enable(self) -> None:
        # update-rc.d keeps present links, also those of a disabled service, so they go first.
        self._run(["update-rc.d", "-f", NAME, "remove"])
        self._run(["update-rc.d", NAME, "defaults"])
