# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A root with namespaces of its own: what a user at its terminal takes for a Debian machine.

It has no service manager; its PID 1 does nothing but reap.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import groups
import site_settings
from lan import BOUND, RESOLVER, Lan, ends_with
from terminal import Terminal

DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup")
# Unlike the file systems of an archive, these are there on each machine that has booted.
_BOOT = """\
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir -m 1777 run/lock dev/shm
mkdir dev/pts
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${n%:*} dev/${n#*:}; done
mknod -m 666 dev/tty c 5 0
"""
# The kernel refuses user namespaces to a process whose root is not that of its mount namespace. It
# reaps the children of a process that ignores SIGCHLD.
_SETTLE = """\
hostname "$2"
pivot_root . .
umount --lazy .
mount --make-rshared /
echo entered
exec env --ignore-signal=CHLD sleep infinity
"""


class Machine:
    """A running machine; ``root`` is where this machine sees its files."""

    def __init__(self, root: Path, pid: int, name: str) -> None:
        self.root = root
        self.pid = pid
        self.name = name

    def enter(self, *command: str) -> list[str]:
        """The words that run a command as root of that machine, in its cgroup."""
        inside = ["nsenter", f"--target={self.pid}", *_NAMESPACES, "--"]
        return groups.joining(self.name, [*inside, "env", "-i", f"PATH={PATH}", *command])

    def run(self, *command: str) -> str:
        """What a command prints that root runs there."""
        done = subprocess.run(self.enter(*command), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def terminal(self, user: str) -> Terminal:
        """Where that user types, in a login shell that knows what a login gives it."""
        entry = self.run("getent", "passwd", user).strip().split(":")
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        known = {"HOME": entry[5], "SHELL": entry[6], "USER": user, "LOGNAME": user}
        login = [*who, "env", "-i", "TERM=xterm", *(f"{k}={v}" for k, v in known.items())]
        pts = Path(f"/proc/{self.pid}/root/dev/pts/ptmx")
        return Terminal(pts, int(entry[2]), self.enter(*login, entry[6], "--login", "-c"))


def unpack(archive: Path, root: Path) -> None:
    """A root with this machine's way to package registries."""
    root.mkdir()
    extract = ["tar", "--extract", "--numeric-owner", "--xattrs-include=*"]
    subprocess.run([*extract, "--directory", root, "--file", archive], check=True)
    site_settings.install(root)


@contextlib.contextmanager
def running(
    lan: Lan, archive: Path, name: str, address: str, shared: dict[str, Path] | None = None
) -> Iterator[Machine]:
    """A machine made from an archive, whose files are gone with it, and directories that stay."""
    with disk(archive, name, address) as root, booted(lan, root, name, address, shared) as machine:
        yield machine


@contextlib.contextmanager
def disk(archive: Path, name: str, address: str) -> Iterator[Path]:
    """The root of a machine, unpacked from an archive."""
    # What is mounted over an overlay can't have layers for an overlay of its own.
    directory = Path(tempfile.mkdtemp(prefix="newcomer-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        yield installed(archive, directory, name, address)
    finally:
        shutil.rmtree(directory)


def installed(archive: Path, directory: Path, name: str, address: str) -> Path:
    """The root of a machine, in a directory."""
    root = directory / "root"
    unpack(archive, root)
    (root / "etc/resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    return root


@contextlib.contextmanager
def booted(
    lan: Lan, root: Path, name: str, address: str, shared: dict[str, Path] | None = None
) -> Iterator[Machine]:
    """A machine with this root; its end is a power cut."""
    with contextlib.ExitStack() as stack:
        known = stack.enter_context(groups.made(name))
        binds = [line for at, source in (shared or {}).items() for line in _bind(source, at)]
        binds += site_settings.mounts()
        pid = _held(stack, root, name, known, binds)
        lan.plug_in(pid, name, address)
        yield Machine(root, pid, known)


def _bind(source: Path, place: str) -> tuple[str, str]:
    return f"mkdir -p .{place}\n", f"mount --bind {shlex.quote(str(source))} .{place}\n"


def _held(stack: contextlib.ExitStack, root: Path, name: str, group: str, binds: list[str]) -> int:
    """Makes PID 1; the pid that this machine knows it by."""
    nodes = [f"mknod -m 666 dev/{node} c 1 {minor}\n" for node, minor in DEVICES.items()]
    enter = 'set -eu\nmount --bind "$1" "$1"\ncd "$1"\n'
    script = "".join([enter, _BOOT, *nodes, *groups.mounts(), *binds, _SETTLE])
    new = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "sh", "-c", script, "sh"]
    command = [*BOUND, *groups.founding(group, [*new, str(root), name])]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as unless:
        ends_with(unless, holder)
        assert holder.stdout is not None and holder.stdout.readline() == "entered\n"
        pid = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
        # With it the kernel ends all that is in the pid namespace, and then lets go of its cgroups.
        stack.callback(_await_end, os.pidfd_open(pid))
        stack.push(unless.pop_all())
    groups.settle(group, holder.pid)
    return pid


def _await_end(pidfd: int) -> None:
    try:
        assert select.select([pidfd], [], [], 60)[0]
    finally:
        os.close(pidfd)
