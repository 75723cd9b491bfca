# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot wait: waits until sandboxes have ended for good, woken by what their inits write."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from typing import Dict, Optional

from ..launcher.client import Launcher
from ..sandbox import names, runtime, waiting
from ..site import Site
from . import output

# How often to see whether there still is a launcher that will start a killed init again.
_LAUNCHER_SECONDS = 30.0


def run(site: Site, options: argparse.Namespace) -> int:
    given = [names.check(site, name) for name in dict.fromkeys(options.name)]
    codes: Dict[str, int] = {}
    problems: Dict[str, str] = {}
    looks = {name: partial(_look, site, name, codes, problems) for name in given}
    waiting.wait_each(site, looks)
    if options.format == "json":
        output.print_json([{"name": name, "exit_code": code} for name, code in codes.items()])
    else:
        sys.stdout.writelines(f"{codes[name]}\n" for name in given if name in codes)
    for name, problem in problems.items():
        output.say(f"{name}: {problem}")
    return 1 if problems else 0


def _look(
    site: Site, name: str, codes: Dict[str, int], problems: Dict[str, str]
) -> Optional[float]:
    """Note the exit code of a sandbox that has ended for good; else the time of the next look."""
    sandbox = site.sandbox(name)
    # Look at init first: the status of a dead init is older than its death.
    running = runtime.settled(sandbox)
    status = runtime.status(sandbox)
    if running is not None:
        return time.monotonic() + _LAUNCHER_SECONDS
    if not os.path.exists(sandbox.status):
        problems[name] = "has not been started, or was removed meanwhile"
        return None
    # The launcher starts a killed init again, or says that its policy forbids it.
    if not status.get("final") and Launcher(site).exists():
        return time.monotonic() + _LAUNCHER_SECONDS
    codes[name] = int(status.get("exit_code", runtime.KILLED))
    return None
