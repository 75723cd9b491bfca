# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The service in OpenRC."""

from __future__ import annotations

import os

from ...site import Site
from .script import NAME, ScriptService

_SCRIPT = """\
#!/sbin/openrc-run
# shellcheck shell=sh
# shellcheck disable=SC2034
description="Sandboxes of sandlot"
extra_commands="keep"
extra_started_commands="reload"
description_keep="Keep a launcher running, and count as started"
description_reload="Put networks, filter and sandboxes right"
# Else OpenRC moves it into a cgroup of its name, which is that of all sandboxes (rc-cgroup.sh).
rc_cgroup_mode=none
SERVICE={keeper}

depend() {{
    use localmount net cgroups
    after mountall mountnfs networking nftables iptables ip6tables firewalld firewall
}}

start() {{
    "$SERVICE" start
}}

stop() {{
    "$SERVICE" stop
}}

status() {{
    "$SERVICE" status
}}

reload() {{
    "$SERVICE" reload
}}

keep() {{
    "$SERVICE" keep && mark_service_started "$RC_SVCNAME"
}}
"""


class OpenRC(ScriptService):
    kind = "openrc"
    template = _SCRIPT

    @classmethod
    def is_present(cls, site: Site) -> bool:
        return os.access(f"{site.root}/sbin/openrc-run", os.X_OK)

    def enabled(self) -> bool:
        return os.path.lexists(f"{self.site.root}/etc/runlevels/default/{NAME}")

    def enable(self) -> None:
        self._run(["rc-update", "add", NAME, "default"])

    def keep(self) -> None:
        if self._is_up():
            self._run(["rc-service", NAME, "keep"])
        else:
            super().keep()

    def remove(self) -> None:
        if self._is_up():
            self._run(["rc-service", "--ifstarted", NAME, "stop"])
        super().remove()

    def _is_up(self) -> bool:
        return not self.site.root and os.path.isdir("/run/openrc")
