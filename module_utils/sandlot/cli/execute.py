# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot exec."""

from __future__ import annotations

import argparse
import os
from typing import Dict

from ..errors import SandlotError
from ..site import Site
from . import execclient

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def run(site: Site, options: argparse.Namespace) -> int:
    return execclient.run(
        site,
        options.name,
        options.argv,
        stdin_fd=_STDIN if options.interactive else None,
        stdout_fd=_STDOUT,
        stderr_fd=_STDERR,
        env=_environment(options),
        cwd=options.workdir,
        user=options.user,
        tty=options.tty,
        forward_signals=True,
    )


def _environment(options: argparse.Namespace) -> Dict[str, str]:
    """Variables asked for; with a terminal also its kind, without which programs can't use it."""
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
