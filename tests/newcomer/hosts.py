#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Debian machines with SSH for Molecule's scenario of a fleet; a process holds them until its end.

    hosts.py start DIRECTORY NAME=ADDRESS[=SIZE]...  start machines; SIZE is the room for sandboxes
    hosts.py tell DIRECTORY cut|boot NAME            cut the power of one, or switch it on again
    hosts.py end DIRECTORY                           end all; nothing is left of them

The machines are in a network of their own. DIRECTORY/connect ADDRESS is a ProxyCommand that leads
there, DIRECTORY/key the key of the user, DIRECTORY/known_hosts what SSH knows of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
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
_STATE = "/var/lib/sandlot"
_CONNECT = """\
#!/bin/sh
exec nsenter --target {pid} --net busybox nc "$1" 22
"""


@dataclass
class Host:
    name: str
    address: str
    root: Path
    shared: dict[str, Path] = field(default_factory=dict)
    power: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def boot(self, network: lan.Lan) -> None:
        running = machine.booted(network, self.root, self.name, self.address, self.shared)
        ssh.serve(self.power, self.power.enter_context(running))
        # Its interface is another one now.
        network.run("ip", "neighbour", "flush", "to", self.address)

    def cut(self, network: lan.Lan) -> None:
        self.power.close()


def hold(directory: Path, wanted: list[str], ready: int) -> socket.socket:
    """Run the machines, and do what is told at the socket, one connection after the other.

    The last one is returned open: its client waits until nothing is left.
    """
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(lan.made())
        connect = directory / "connect"
        connect.write_text(_CONNECT.format(pid=network.pid))
        connect.chmod(0o755)
        hosts = {host.name: host for host in (_host(stack, directory, word) for word in wanted)}
        for host in hosts.values():
            stack.callback(host.power.close)
            host.boot(network)
        known = [ssh.known(host.root, host.address) for host in hosts.values()]
        (directory / "known_hosts").write_text("".join(known))
        control = stack.enter_context(socket.socket(socket.AF_UNIX))
        control.bind(str(directory / "control"))
        control.listen()
        os.write(ready, b"ready")
        os.close(ready)
        while True:
            connection, dummy = control.accept()
            with connection:
                verb, dummy, name = connection.recv(1000).decode().partition(" ")
                if verb == "end":
                    return connection.dup()
                getattr(hosts[name], verb)(network)


def _host(stack: contextlib.ExitStack, directory: Path, word: str) -> Host:
    name, address, *size = word.split("=")
    root = stack.enter_context(machine.disk(roots.remote(SUITE, *PACKAGES), name, address))
    ssh.admit(root, (directory / "key.pub").read_text())
    host = Host(name, address, root)
    if size:
        small = directory / f"{name}.disk"
        small.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size[0]},mode=700", "sandlot-test"]
        subprocess.run([*command, str(small)], check=True)
        stack.callback(subprocess.run, ["umount", str(small)], check=True)
        host.shared[_STATE] = small
    return host


def start(directory: Path, *wanted: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o755)
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")]
    subprocess.run(make, check=True)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os.setsid()
        with open(directory / "log", "w") as log:
            for stream in (0, 1, 2):
                os.dup2(log.fileno(), stream)
        hold(directory, list(wanted), writer).close()
        os._exit(0)
    os.close(writer)
    with open(reader) as ready:
        if ready.read() != "ready":
            sys.exit((directory / "log").read_text())


def tell(directory: Path, *words: str) -> None:
    """Returns when it is done."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / "control"))
        connection.sendall(" ".join(words).encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1):
            pass


def end(directory: Path) -> None:
    if (directory / "control").exists():
        tell(directory, "end")
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    {"start": start, "tell": tell, "end": end}[sys.argv[1]](
        Path(sys.argv[2]).resolve(), *sys.argv[3:]
    )
