# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The service of hosts without systemd: OpenRC's, or an init script where sysvinit is.

Both are thin: a third script, with the runtime, does the work and keeps a launcher running.
"""

from __future__ import annotations

import fcntl
import glob
import os
import subprocess
from typing import Sequence

from .. import store
from ..errors import HostError
from ..site import Site

NAME = "sandlot"
SYSTEMD = "/run/systemd/system"
OPENRC, SYSVINIT, NONE = "openrc", "sysvinit", "none"
_UPDATE_RC = "/usr/sbin/update-rc.d"
_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"

# A launcher on demand is started by whoever needs one, so the keeper waits for the lock of the
# one that runs, whosever child it is. Descriptor 9 is the keeper's alone: its lock says that it
# lives. `start` is that of a boot, `keep` that of a deploy, which holds the lock that `up` wants.
_KEEPER = """\
#!/bin/sh
# Does the work of the service sandlot on hosts without systemd.
umask 077
{environment}COMMAND={command}
RUN={run}
KEEPER=$RUN/.keeper

keep() {{
    mkdir -p "$RUN" && release || return 1
    exec 9>>"$KEEPER"
    if flock --nonblock 9; then
        setsid "$0" loop </dev/null >>"$RUN/launcher.log" 2>&1 &
        echo "$!" >"$KEEPER"
    fi
    exec 9>&-
}}

loop() {{
    cd / || exit 1
    while [ -x "$COMMAND" ]; do
        flock "$RUN/launcher.lock" true 9>&-
        env -i PATH={search} {assignment}"$COMMAND" launcher 9>&-
        sleep 1 9>&-
    done
}}

release() {{
    [ -s "$KEEPER" ] || return 0
    flock --nonblock "$KEEPER" true && return 0
    kill "$(cat "$KEEPER")"
    flock --timeout 10 "$KEEPER" true
}}

stop() {{
    "$COMMAND" down --at-shutdown
    code=$?
    release && "$COMMAND" launcher --end && return "$code"
}}

case "$1" in
keep) keep ;;
loop) loop ;;
start|reload) keep && "$COMMAND" up ;;
stop) stop ;;
status) "$COMMAND" launcher --status ;;
*) exit 2 ;;
esac
"""
# LSB: 2 for bad arguments, 3 for "not running", 4 for no permission, 5 for "not installed".
_SYSVINIT = """\
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
_OPENRC = """\
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


def has_systemd(site: Site) -> bool:
    return not site.root and os.path.isdir(SYSTEMD)


def manager(site: Site) -> str:
    """Which one starts the sandboxes of this host after a boot."""
    if has_systemd(site):
        return "systemd"
    service = find(site)
    return service.kind if service else NONE


def find(site: Site) -> Service | None:
    """The service to be, None where systemd runs or where nothing would start it."""
    if has_systemd(site):
        return None
    if os.access(f"{site.root}/sbin/openrc-run", os.X_OK):
        return Service(site, OPENRC)
    wanted = ("/etc/inittab", "/etc/rc2.d", _UPDATE_RC)
    if all(os.path.exists(f"{site.root}{path}") for path in wanted):
        return Service(site, SYSVINIT)
    return None


def left(site: Site) -> Service | None:
    """What is to be removed, also after the host has changed to another service manager."""
    service = find(site) or Service(site, SYSVINIT)
    return service if service.traces() else None


class Service:
    """The script, its links in runlevels, and what it runs."""

    def __init__(self, site: Site, kind: str) -> None:
        self.site = site
        self.kind = kind
        self.script = f"{site.root}/etc/init.d/{NAME}"
        self.keeper = f"{site.lib}/service"

    def texts(self) -> dict[str, tuple[str, int]]:
        assignment = f"SANDLOT_ROOT={self.site.root} " if self.site.root else ""
        values = {
            "command": self.site.command,
            "run": self.site.run,
            "keeper": self.keeper,
            "search": _SEARCH,
            "assignment": assignment,
            "environment": f"export {assignment.strip()}\n" if assignment else "",
        }
        script = _OPENRC if self.kind == OPENRC else _SYSVINIT
        return {
            self.keeper: (_KEEPER.format(**values), 0o755),
            self.script: (script.format(**values), 0o755),
        }

    def enabled(self) -> bool:
        """Whether every runlevel has its link that should have one."""
        etc = f"{self.site.root}/etc"
        if self.kind == OPENRC:
            return os.path.lexists(f"{etc}/runlevels/default/{NAME}")
        wanted = (*(f"rc{level}.d/S" for level in "2345"), *(f"rc{level}.d/K" for level in "016"))
        return all(glob.glob(f"{etc}/{start}??{NAME}") for start in wanted)

    def enable(self) -> None:
        if self.kind == OPENRC:
            self._run(["rc-update", "add", NAME, "default"])
            return
        # Links that are there, such as those of a service that was disabled, would be kept.
        self._run(["update-rc.d", "-f", NAME, "remove"])
        self._run(["update-rc.d", NAME, "defaults"])

    def kept(self) -> bool:
        """Whether somebody looks after the launcher: the keeper holds this lock while it lives."""
        try:
            fd = os.open(f"{self.site.run}/.keeper", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def keep(self) -> None:
        """As after a boot, but for the sandboxes, which are the business of the run that asks."""
        if self._is_openrc_up():
            self._run(["rc-service", NAME, "keep"])
        else:
            self._run([self.keeper, "keep"], outside=True)

    def _is_openrc_up(self) -> bool:
        return self.kind == OPENRC and not self.site.root and os.path.isdir("/run/openrc")

    def remove(self) -> None:
        if self._is_openrc_up():
            self._run(["rc-service", "--ifstarted", NAME, "stop"])
        if os.path.exists(self.keeper):
            self._run([self.keeper, "stop"], outside=True)
        if os.path.exists(f"{self.site.root}{_UPDATE_RC}"):
            # It also forgets the order of the scripts.
            self._run(["update-rc.d", "-f", NAME, "remove"])
        for path in (*self._links(), self.script, self.keeper):
            store.remove(path)

    def traces(self) -> bool:
        return os.path.lexists(self.script) or self.kept() or bool(self._links())

    def _links(self) -> list[str]:
        patterns = (f"rc?.d/[SK]??{NAME}", f"runlevels/*/{NAME}")
        found = [glob.glob(f"{self.site.root}/etc/{pattern}") for pattern in patterns]
        return sorted(sum(found, []))

    def _run(self, words: Sequence[str], *, outside: bool = False) -> None:
        """One of the host's programs; those of a moved root are run in it."""
        inside = [] if outside or not self.site.root else ["chroot", self.site.root]
        environment = {"PATH": _SEARCH, "LC_ALL": "C"}
        command = [*inside, *words]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode:
            told = (done.stderr or done.stdout).strip()
            raise HostError(f"{' '.join(command)}: {told}", hint="run again once that is remedied")
