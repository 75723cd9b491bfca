# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot exec."""

from __future__ import annotations

import argparse
import os
from typing import Dict

from ..errors import SandlotError
from ..reach import command
from ..site import Site


def run(site: Site, options: argparse.Namespace) -> int:
    return command.execute(
        site,
        options.name,
        options.argv,
        stdin_fd=0 if options.interactive else None,
        stdout_fd=1,
        stderr_fd=2,
        env=_environment(options),
        cwd=options.workdir,
        user=options.user,
        tty=options.tty,
        forward_signals=True,
    )


def _environment(options: argparse.Namespace) -> Dict[str, str]:
    """The variables from the options; with a terminal also TERM, which programs need."""
    passed = {"TERM": os.environ["TERM"]} if options.tty and "TERM" in os.environ else {}
    for item in options.env:
        key, given, value = item.partition("=")
        if not key:
            raise SandlotError(f"env: {item!r} names no variable", hint="write KEY=VALUE")
        if given:
            passed[key] = value
        elif key in os.environ:
            passed[key] = os.environ[key]
    return passed
