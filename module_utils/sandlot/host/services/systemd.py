# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The units of systemd."""

from __future__ import annotations

import os

from ...kernel import program
from ...launcher.client import UNIT
from ...site import Site
from .service import Service, Texts

BOOT_UNIT = "sandlot-up.service"
WANTED_BY = ("multi-user.target", "nftables.service")
# Two units: a deploy starts the first while it holds the lock that `up` in the second waits for.
# Sandboxes are in no unit's cgroup, so a shutdown would kill them last, after their network, filter
# and pins are gone. The first unit is stopped before all these and ends the sandboxes.
# nftables.service flushes all tables, ours too, whenever it is started or reloaded.
UNITS = {
    UNIT: """\
[Unit]
Description=Launcher of the sandboxes of sandlot
After=local-fs.target network.target nftables.service firewalld.service

[Service]
ExecStart={command} launcher
ExecStop={command} down --at-shutdown
TimeoutStopSec=5min
KillMode=process
Restart=always
RestartSec=1
TasksMax=infinity
LimitNOFILE=65536
""",
    BOOT_UNIT: """\
[Unit]
Description=Sandboxes of sandlot
Wants={unit}
After={unit} nftables.service lxcfs.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command} up
ExecReload={command} up
TimeoutStartSec=infinity

[Install]
WantedBy={wanting}
""",
}


class Systemd(Service):
    kind = "systemd"
    place = "/etc/systemd/system"
    label = BOOT_UNIT
    remedy = f"systemctl enable {BOOT_UNIT}, or run sandbox_host"

    @classmethod
    def is_present(cls, site: Site) -> bool:
        return site.has_systemd

    def unit(self, name: str) -> str:
        return f"{self.site.root}{self.place}/{name}"

    def boot_links(self) -> list[str]:
        return [self.unit(f"{wanting}.wants/{BOOT_UNIT}") for wanting in WANTED_BY]

    def texts(self) -> Texts:
        values = {"command": self.site.command, "unit": UNIT, "wanting": " ".join(WANTED_BY)}
        return {self.unit(name): (text.format(**values), 0o644) for name, text in UNITS.items()}

    def enabled(self) -> bool:
        return all(map(os.path.lexists, self.boot_links()))

    def enable(self) -> None:
        _systemctl("enable", BOOT_UNIT)

    def reload(self) -> None:
        _systemctl("daemon-reload")
        # The unit waits for the lock of the host, so a holder must not wait for the unit.
        _systemctl("start", "--no-block", BOOT_UNIT)

    def needs_keeping(self, *, changed: bool) -> bool:
        """Never: the unit says Restart=always."""
        return False

    def keep(self) -> None:
        self.reload()

    def traces(self) -> list[str]:
        return [name for name in UNITS if os.path.lexists(self.unit(name))]

    def remove(self) -> None:
        units = self.traces()
        _systemctl("disable", "--now", *units)
        for name in units:
            os.unlink(self.unit(name))
        _systemctl("daemon-reload")


def _systemctl(*words: str) -> None:
    program.check(["systemctl", *words])
