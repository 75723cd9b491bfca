# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sizes by project quotas, which this machine's kernel lacks; and by a file, where it may grow."""

from __future__ import annotations

from pathlib import Path

from guest import Guest
from hosts import each, inside

# What is shown here is the same on all, and the first suite has the tests of power cuts.
SUITES_WANTED = slice(-1, None)
ROOT = "/srv/projects"
IMAGE = "/root/projects.img"
SCRIPT = Path(__file__).with_name("projects.py")
_MOUNT = f"""
truncate -s 400M {IMAGE}
mkfs.ext4 -q -O quota,project {IMAGE}
mkdir {ROOT}
mount -o loop,prjquota {IMAGE} {ROOT}
"""


def test_project_quotas(guest: Guest, deployed: str) -> None:
    guest.put(SCRIPT, "/home/deploy/projects.py")
    guest.root(f"set -e; {_MOUNT}")
    try:
        guest.root(f"python3 /home/deploy/projects.py {ROOT}")
    finally:
        guest.root(f"umount {ROOT}; rmdir {ROOT}; rm {IMAGE} /home/deploy/projects.py")


def test_a_file_system_grows_while_it_is_used(
    guest: Guest, raised: tuple[int, dict[str, int]]
) -> None:
    """Root of this machine may lack CAP_SYS_RESOURCE, which the kernel asks for."""
    _, pids = raised
    shown = inside(guest, "shell", "df -m /").split()
    assert 32 < int(shown[-5]) <= 48
    assert each(guest, "pid")["shell"] == pids["shell"]
