# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files that identify one machine: no image of ours has them, each sandbox gets its own.

A package makes them when it is installed, so sandboxes of an image would share them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Iterable

# Private and public keys by which clients know an SSH server; the first start makes new ones.
HOST_KEYS = ("etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub", "etc/dropbear/*_host_key")
# Seeds and keys that systemd, Debian's init scripts and Alpine's seedrng make when they lack them.
SEEDS = (
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/seedrng/seed.*",
)
# These stay as empty files: the builder writes an id where the image has one (build.machine_id).
MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
# In an image's config: whether its sandboxes make host keys at their first start.
FIRST_START = "first_start"


def is_any(path: str, patterns: Iterable[str]) -> bool:
    return any(
        fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns
    )
