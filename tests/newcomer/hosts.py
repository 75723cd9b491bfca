#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Debian machines with SSH for Molecule's scenario of a fleet; a process holds them until its end.

    hosts.py start DIRECTORY NAME=ADDRESS[=ROOM]...  start machines, with so many MB free
    hosts.py tell DIRECTORY cut NAME [WORD]          cut the power, when a process has this argument
    hosts.py tell DIRECTORY boot NAME                switch it on again
    hosts.py tell DIRECTORY resize NAME ROOM         leave so many MB on its disk
    hosts.py end DIRECTORY                           end all; nothing is left of them

The machines are in a network of their own, where DIRECTORY/within COMMAND runs a command;
DIRECTORY/key is the key of the user, DIRECTORY/known_hosts what SSH knows of the machines.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

import lan  # noqa: E402
import machine  # noqa: E402
import roots  # noqa: E402
import ssh  # noqa: E402

SUITE = "bookworm"
# Servers have cron; a deploy would install the others, which leaves hosts without a mirror alike.
PACKAGES = ("busybox-static", "cron", "nftables", "python3-pyroute2")
_DONE = b"done"
_WITHIN = """\
#!/bin/sh
exec nsenter --target {pid} --net "$@"
"""


@dataclass
class Host:
    name: str
    address: str
    root: Path
    power: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    seen: Path = Path()
    """The processes of the machine."""

    def boot(self, network: lan.Lan) -> None:
        booting = machine.booted(network, self.root, self.name, self.address)
        running = self.power.enter_context(booting)
        self.seen = Path(f"/proc/{running.pid}/root/proc")
        ssh.serve(self.power, running)
        # Its interface is another one now.
        network.run("ip", "neighbour", "flush", "to", self.address)

    def cut(self, network: lan.Lan, word: str = "") -> None:
        end = time.monotonic() + 60
        while word and word not in self._arguments():
            assert time.monotonic() < end, f"{self.name} runs no process with {word}"
            time.sleep(0.02)
        # Without a link, no peer hears of it.
        network.run("ip", "link", "delete", self.name)
        self.power.close()

    def _arguments(self) -> set[str]:
        arguments: set[str] = set()
        for file in self.seen.glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                arguments.update(file.read_text().split("\0"))
        return arguments

    def resize(self, network: lan.Lan, room: str) -> None:
        self.leave(int(room))

    def leave(self, room: int) -> None:
        """Leave so many megabytes on its disk."""
        disk = os.statvfs(self.root)
        size = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + (room << 20)
        command = ["mount", "-o", f"remount,size={size}", str(self.root.parent)]
        subprocess.run(command, check=True)


def hold(directory: Path, wanted: list[str], control: socket.socket, ready: int) -> socket.socket:
    """Run the machines, and do what is told at the socket, one connection after the other.

    The last one is returned open: its client waits until nothing is left.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(control)
        network = stack.enter_context(lan.made())
        within = directory / "within"
        within.write_text(_WITHIN.format(pid=network.pid))
        within.chmod(0o755)
        hosts = {host.name: host for host in (_host(stack, directory, word) for word in wanted)}
        for host in hosts.values():
            stack.callback(host.power.close)
            host.boot(network)
        known = [ssh.known(host.root, host.address) for host in hosts.values()]
        (directory / "known_hosts").write_text("".join(known))
        os.write(ready, b"ready")
        os.close(ready)
        while True:
            connection, dummy = control.accept()
            with connection:
                verb, *words = connection.recv(1000).decode().split()
                if verb == "end":
                    return connection.dup()
                getattr(hosts[words[0]], verb)(network, *words[1:])
                connection.sendall(_DONE)


def _host(stack: contextlib.ExitStack, directory: Path, word: str) -> Host:
    name, address, *size = word.split("=")
    # In memory, as an unmount removes all files at once.
    disk = directory / name
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "sandlot-test", disk], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", disk], check=True)
    root = machine.installed(roots.remote(SUITE, *PACKAGES), disk, name, address)
    ssh.admit(root, (directory / "key.pub").read_text())
    host = Host(name, address, root)
    if size:
        host.leave(int(size[0]))
    return host


def start(directory: Path, *wanted: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o755)
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")]
    subprocess.run(make, check=True)
    control = socket.socket(socket.AF_UNIX)
    control.bind(str(directory / "control"))
    # Before the machines, so that an end can be told while they start.
    control.listen()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os.setsid()
        with open(directory / "log", "w") as log:
            for stream in (0, 1, 2):
                os.dup2(log.fileno(), stream)
        with hold(directory, list(wanted), control, writer) as connection:
            connection.sendall(_DONE)
        os._exit(0)
    os.close(writer)
    control.close()
    with open(reader) as ready:
        if ready.read() != "ready":
            sys.exit((directory / "log").read_text())


def tell(directory: Path, *words: str) -> None:
    """Return when it is done."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / "control"))
        connection.sendall(" ".join(words).encode())
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(len(_DONE)) != _DONE:
            sys.exit((directory / "log").read_text())


def end(directory: Path) -> None:
    # Nobody may be there any more.
    with contextlib.suppress(FileNotFoundError, ConnectionError):
        tell(directory, "end")
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    {"start": start, "tell": tell, "end": end}[sys.argv[1]](
        Path(sys.argv[2]).resolve(), *sys.argv[3:]
    )
