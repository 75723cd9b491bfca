# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A service by an init script, of OpenRC or sysvinit.

Init scripts are thin: a script beside the runtime does the work and keeps a launcher running.
"""

from __future__ import annotations

import glob
import os
from typing import ClassVar, Sequence

from ... import store
from ...kernel import flock, program
from .service import Service, Texts

NAME = "sandlot"
UPDATE_RC = "/usr/sbin/update-rc.d"

# Any client may have started the running launcher, so the keeper waits for the launcher's lock, not
# for a child. Descriptor 9 holds the keeper's own lock, which tells that it lives. A boot calls
# `start`, a deploy calls `keep`, as it holds the lock that `up` wants.
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


class ScriptService(Service):
    """A service made of an init script, its links in runlevels, and the keeper that it runs."""

    place = f"/etc/init.d/{NAME}"
    label = f"the service {NAME}"
    template: ClassVar[str]

    @property
    def script(self) -> str:
        return f"{self.site.root}{self.place}"

    @property
    def keeper(self) -> str:
        return f"{self.site.lib}/service"

    def texts(self) -> Texts:
        assignment = f"SANDLOT_ROOT={self.site.root} " if self.site.root else ""
        values = {
            "command": self.site.command,
            "run": self.site.run,
            "keeper": self.keeper,
            "search": program.SYSTEM_PATH,
            "assignment": assignment,
            "environment": f"export {assignment.strip()}\n" if assignment else "",
        }
        return {
            self.keeper: (_KEEPER.format(**values), 0o755),
            self.script: (self.template.format(**values), 0o755),
        }

    def reload(self) -> None:
        """Do nothing: a manager reads a script whenever it runs it."""

    def needs_keeping(self, *, changed: bool) -> bool:
        return changed or not self._is_kept()

    def _is_kept(self) -> bool:
        """Whether the keeper lives: it holds its lock until it ends."""
        return flock.is_held(f"{self.site.run}/.keeper")

    def keep(self) -> None:
        self._run([self.keeper, "keep"], outside=True)

    def remove(self) -> None:
        if os.path.exists(self.keeper):
            self._run([self.keeper, "stop"], outside=True)
        if os.path.exists(f"{self.site.root}{UPDATE_RC}"):
            # It also forgets the order of the scripts.
            self._run(["update-rc.d", "-f", NAME, "remove"])
        for path in (*self._links(), self.script, self.keeper):
            store.remove(path)

    def traces(self) -> list[str]:
        left = os.path.lexists(self.script) or self._is_kept() or self._links()
        return [self.label] if left else []

    def _links(self) -> list[str]:
        patterns = (f"rc?.d/[SK]??{NAME}", f"runlevels/*/{NAME}")
        return sorted(
            path for pattern in patterns for path in glob.glob(f"{self.site.root}/etc/{pattern}")
        )

    def _run(self, words: Sequence[str], *, outside: bool = False) -> None:
        """Run a program of the host; with a moved root, the root's own unless ``outside``."""
        inside = [] if outside or not self.site.root else ["chroot", self.site.root]
        environment = {"PATH": program.SYSTEM_PATH}
        hint = "run again once that is remedied"
        program.check([*inside, *words], env=environment, hint=hint)
