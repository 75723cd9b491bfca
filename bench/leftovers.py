# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a teardown must not leave behind, and its removal when it did."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import processes
from sandlot.site import Site

CGROUPS = Path("/sys/fs/cgroup")
EXIT_SECONDS = 10.0


def find(paths: Site) -> list[str]:
    """One line per object of ``paths`` that still exists outside its directory."""
    found = [f"process {pid}" for pid in processes.mentioning(paths.lib)]
    found += [f"mount {point}" for point in _mounts(paths)]
    found += [f"interface {name}" for name in _links(paths)]
    found += [f"table {family} {name}" for family, name in _tables(paths)]
    return found + [f"cgroup {path}" for path in _cgroups(paths)]


def remove(paths: Site) -> None:
    for pid in processes.mentioning(paths.lib):
        os.kill(pid, signal.SIGKILL)
    for point in reversed(_mounts(paths)):
        subprocess.run(["umount", "--lazy", point], check=True)
    for name in _links(paths):
        subprocess.run(["ip", "link", "del", name], check=True)
    for family, name in _tables(paths):
        subprocess.run(["nft", "delete", "table", family, name], check=True)
    for path in _cgroups(paths):
        remove_cgroup(path)


def remove_cgroup(path: Path) -> None:
    """Processes leave their cgroup a moment after they were killed."""
    deadline = time.monotonic() + EXIT_SECONDS
    while True:
        try:
            return path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _mounts(paths: Site) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in points if point.startswith((f"{paths.run}/", f"{paths.state}/"))]


def _links(paths: Site) -> list[str]:
    """The bridge; host ends of veth pairs go with the namespaces, or with it."""
    bridge = paths.bridge("default")
    if not os.path.exists(f"/sys/class/net/{bridge}"):
        return []
    return [*os.listdir(f"/sys/class/net/{bridge}/brif"), bridge]


def _tables(paths: Site) -> list[tuple[str, str]]:
    listing = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True)
    tables = [line.split()[1:3] for line in listing.stdout.splitlines()]
    return [(family, name) for family, name in tables if name.startswith(paths.nft_table)]


def _cgroups(paths: Site) -> list[Path]:
    """Deepest first, as rmdir wants them."""
    tops = [CGROUPS, *(path for path in CGROUPS.iterdir() if path.is_dir())]
    ours = [top / paths.cgroup for top in tops if (top / paths.cgroup).is_dir()]
    below = [path for top in ours for path in top.rglob("*") if path.is_dir()]
    return sorted([*ours, *below], key=lambda path: len(path.parts), reverse=True)
