# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot up, down and launcher, for the system service."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from ..paths import Paths


def run(paths: Paths, options: argparse.Namespace) -> int:
    if options.command == "up":
        return _up(paths)
    if options.command == "down":
        return 0 if options.at_shutdown and not _shutting_down() else _down(paths)
    return _launcher(paths)


def _up(paths: Paths) -> int:
    from .. import converge
    from .lifecycle import report

    return report(converge.up(paths).failed)


def _down(paths: Paths) -> int:
    from .. import converge
    from .lifecycle import report

    return report(converge.down(paths))


def _shutting_down() -> bool:
    command = ["systemctl", "is-system-running"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "stopping"


def _launcher(paths: Paths) -> int:
    """In place of this process: what the launcher's memory holds is paid for by every sandbox."""
    from ..launcher.command import command

    argv = command(paths, sys.executable)
    os.execv(argv[0], argv)
