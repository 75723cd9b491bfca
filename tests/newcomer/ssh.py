# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Lets SSH into a machine: an account with sudo, its key, and Debian's own server."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import roots
from lan import BOUND, ends_with
from machine import Machine


def admit(root: Path, key: str) -> None:
    """Give the account of a disk a public key, and all rights by sudo without a password."""
    home = root / "home" / roots.REMOTE_USER
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh/authorized_keys").write_text(key)
    owner = home.stat()
    for path in (home / ".ssh", home / ".ssh/authorized_keys"):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    rule = f"{roots.REMOTE_USER} ALL=(ALL) NOPASSWD: ALL\n"
    (root / "etc/sudoers.d/user").write_text(rule)


def serve(stack: contextlib.ExitStack, machine: Machine) -> None:
    machine.run("mkdir", "/run/sshd")
    command = [*BOUND, *machine.enter("/usr/sbin/sshd", "-D", "-e")]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    ends_with(stack, server)
    assert server.stderr is not None
    assert any("Server listening" in line for line in server.stderr)


def known(root: Path, address: str) -> str:
    """The line by which clients know the server of a disk."""
    return f"{address} {(root / 'etc/ssh/ssh_host_ed25519_key.pub').read_text()}"
