# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Starts programs of the installed runtime; a module of its own, so that callers import little."""

from __future__ import annotations

import os
import sys

from ..kernel.program import SYSTEM_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from ..site import Site

SYSTEM_PYTHON = "/usr/bin/python3"


def interpreter() -> str:
    """The Python for the runtime: the distribution's, else the running one."""
    return SYSTEM_PYTHON if os.access(SYSTEM_PYTHON, os.X_OK) else sys.executable


def command(site: Site, python: str) -> List[str]:
    """The command that starts a launcher."""
    code = (
        f"import sys; sys.path.insert(0, {site.lib!r}); "
        "from sandlot.launcher.zygote import main; main(sys.argv[1])"
    )
    # UTF-8 whatever the host's locale, so that arguments keep their bytes.
    return [python, "-ISE", "-X", "utf8", "-c", code, site.root or "/"]


def start(site: Site, verb: str) -> int:
    """Run `sandlot VERB` as a child; return its pid."""
    code = (
        f"import sys; sys.path.insert(0, {site.lib!r}); "
        f"from sandlot.cli.main import main; sys.exit(main([{verb!r}]))"
    )
    # With site packages, where pyroute2 is.
    argv = [sys.executable, "-I", "-X", "utf8", "-c", code]
    environment = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "SANDLOT_ROOT": site.root}
    # The engine also runs without Ansible, which has run_command.
    return os.posix_spawn(argv[0], argv, environment)  # pylint: disable=ansible-bad-function
