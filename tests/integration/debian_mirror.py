# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Where this machine's own apt finds Debian, for images that are made of packages."""

from __future__ import annotations

import functools
import subprocess

import pytest
from sandlot.images import debootstrap, program


@functools.cache
def mirror() -> str:
    """The URL of the archive in the machine's sources; skips where there is none."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pairs = [line.split(" ", 1) for line in done.stdout.splitlines()]
    found = [url.rstrip("/") for name, url in pairs if "security" not in name + url]
    if not found:
        pytest.skip("this machine's apt has no Debian archive")
    return found[0]


def debian(name: str, suite: str = "bookworm", **options: object) -> dict[str, object]:
    return {
        "name": name,
        "source": "debootstrap",
        "suite": suite,
        "mirror": mirror(),
        # A machine that tests, and its mirror, may be frozen at different times.
        "check_valid_until": False,
        **options,
    }


needs_tools = pytest.mark.skipif(
    not all(program.find([tool]) for tool in debootstrap.TOOLS),
    reason="needs mmdebstrap and debootstrap",
)
