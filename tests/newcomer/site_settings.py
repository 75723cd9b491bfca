# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What this machine's site has each of its machines know of the way to package registries.

A machine that needs none of it has none of these files.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

_FILES = (
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/ca-certificates",
)
_VARIABLES = re.compile(r"(PIP_\w+|\w+_proxy)", re.IGNORECASE)


def variables() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if _VARIABLES.fullmatch(name)}


def install(root: Path) -> None:
    for name in filter(os.path.exists, _FILES):
        place = root / name[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(name):
            shutil.copytree(name, place, dirs_exist_ok=True)
        else:
            shutil.copy(name, place)
    shown = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    ways = re.findall(r"^Acquire::(?:https?::Proxy|Check-).*$", shown.stdout, re.M | re.I)
    (root / "etc/apt/apt.conf.d/90site").write_text("".join(f"{line}\n" for line in ways))
    lines = [f"export {name}={shlex.quote(text)}\n" for name, text in variables().items()]
    (root / "etc/profile.d/site.sh").write_text("".join(lines))


def mounts() -> list[str]:
    """Lines of a shell that show the directories that pip's settings name, read-only."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"(?<![\w:/])(?:file://)?(/[\w.+/-]+)", known)
    # An index links to files beside it.
    tops = {"/".join(path.split("/")[:3]) for path in named if not path.startswith("/etc/")}
    return [
        line
        for top in sorted(filter(os.path.isdir, tops))
        for line in (
            f"mkdir -p .{top}\n",
            f"mount --bind {top} .{top}\n",
            f"mount -o remount,bind,ro .{top}\n",
        )
    ]
