# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot up and sandlot launcher, for the system service."""

from __future__ import annotations

import argparse
import os
import sys

from ..paths import Paths


def run(paths: Paths, options: argparse.Namespace) -> int:
    return _up(paths) if options.command == "up" else _launcher(paths)


def _up(paths: Paths) -> int:
    from .. import converge
    from .lifecycle import report

    return report(converge.up(paths).failed)


def _launcher(paths: Paths) -> int:
    """In place of this process: what the launcher's memory holds is paid for by every sandbox."""
    from ..launcher.command import command

    argv = command(paths, sys.executable)
    os.execv(argv[0], argv)
