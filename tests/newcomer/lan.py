# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A network for the roots of a test, and a way out of it that changes nothing of this machine.

A bridge and NAT in a network namespace; slirp4netns makes the connections of what leaves it as an
ordinary program, so that neither rules nor forwarding are needed outside. All ends with the test.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

# That of the hosts in the README's inventory, so that it is typed unchanged.
NETWORK = "192.0.2.0/24"
GATEWAY = "192.0.2.1"
# slirp4netns asks this machine's name servers for whoever asks here.
RESOLVER = "10.0.2.3"
_RULES = f"""\
table ip out {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {NETWORK} oifname "tap0" masquerade
  }}
}}
"""
# The kernel ends a process whose parent is gone, also when that was killed.
BOUND = ("setpriv", "--pdeathsig", "KILL")


class Lan:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, *command: str, text: str | None = None) -> None:
        enter = ("nsenter", "--net", f"--target={self.pid}", "--")
        subprocess.run([*enter, *command], input=text, text=True, check=True)

    def plug_in(self, pid: int, name: str, address: str) -> None:
        """The link eth0 in the network of a process, and the way out."""
        pair = ("type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self.run("ip", "link", "add", name, "master", "lan0", "up", *pair)
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("route", "add", "default", "via", GATEWAY),
        ):
            enter = ("nsenter", "--net", f"--target={pid}", "--")
            subprocess.run([*enter, "ip", *words], check=True)


@contextlib.contextmanager
def made() -> Iterator[Lan]:
    holding = [*BOUND, "unshare", "--net", "sh", "-c", "echo made; exec sleep infinity"]
    with contextlib.ExitStack() as stack:
        holder = subprocess.Popen(holding, stdout=subprocess.PIPE, text=True)
        ends_with(stack, holder)
        assert holder.stdout is not None and holder.stdout.readline() == "made\n"
        _connect(stack, holder.pid)
        lan = Lan(holder.pid)
        lan.run("ip", "link", "add", "lan0", "up", "type", "bridge")
        lan.run("ip", "address", "add", f"{GATEWAY}/24", "dev", "lan0")
        lan.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        lan.run("nft", "-f", "-", text=_RULES)
        yield lan


def _connect(stack: contextlib.ExitStack, pid: int) -> None:
    reader, writer = os.pipe()
    # What it prints of itself is of use to nobody.
    log = stack.enter_context(open(os.devnull, "w"))
    command = [*BOUND, "slirp4netns", "--configure", f"--ready-fd={writer}", str(pid), "tap0"]
    outside = subprocess.Popen(command, pass_fds=[writer], stdout=log, stderr=log)
    ends_with(stack, outside)
    os.close(writer)
    with open(reader) as ready:
        assert ready.read() == "1", "slirp4netns did not connect the network"


def ends_with(stack: contextlib.ExitStack, process: subprocess.Popen[Any]) -> None:
    stack.callback(process.wait)
    stack.callback(process.kill)
