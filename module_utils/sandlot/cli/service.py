# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot up, down and launcher, for the system service."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from ..kernel import program
from ..launcher.client import Launcher
from ..site import Site
from . import output

# The exit status that LSB defines for a service that is down.
NOT_RUNNING = 3
# Runlevels in which sandboxes don't run, of sysvinit (off, single user, reboot) and of OpenRC.
_HALTING = {"RUNLEVEL": ("0", "1", "6"), "RC_RUNLEVEL": ("shutdown", "single")}


def up(site: Site, options: argparse.Namespace) -> int:
    from .. import converge
    from .lifecycle import report

    done = converge.up(site, watch=converge.WATCH)
    for warning in done.warnings:
        output.say(warning)
    return report(done.failed)


def down(site: Site, options: argparse.Namespace) -> int:
    if options.at_shutdown and not _shutting_down():
        return 0
    from .. import converge
    from .lifecycle import report

    return report(converge.down(site))


def _shutting_down() -> bool:
    """Whether the host shuts down, by systemd's state, or by variables of sysvinit or OpenRC."""
    if any(os.environ.get(name) in levels for name, levels in _HALTING.items()):
        return True
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return False
    return program.run([systemctl, "is-system-running"]).stdout.strip() == "stopping"


def launcher(site: Site, options: argparse.Namespace) -> int:
    if options.status:
        answer = Launcher(site).ping()
        state = f"the launcher runs, pid {answer['pid']}" if answer else "no launcher runs"
        sys.stdout.write(f"{state}\n")
        return 0 if answer else NOT_RUNNING
    if options.end:
        Launcher(site).quit()
        return 0
    # By exec, as every sandbox shares the launcher's memory, which has to be small.
    from ..launcher.command import command

    os.makedirs(site.run, mode=0o700, exist_ok=True)
    argv = command(site, sys.executable)
    os.execv(argv[0], argv)
