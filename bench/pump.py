# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""TCP throughput into a network namespace, and the cost of a packet; nothing is installed for it.

Run as a script it is the sender. The receiver stays in this process and is entered into the
namespace by a thread of its own, since a network namespace belongs to a thread.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Callable, Sequence

CHUNK = 1 << 20
PORT = 5201
CLONE_NEWNET = 0x40000000


def megabits_per_second(netns: str, address: str, seconds: float, prefix: Sequence[str]) -> float:
    """From where ``prefix`` leads to (the host without one) to ``address`` inside ``netns``."""
    listener = _inside(netns, lambda: socket.create_server((address, PORT)))
    sender = subprocess.Popen(
        [*prefix, sys.executable, "-ISE", __file__, address, str(PORT), str(seconds)]
    )
    try:
        return _receive(listener)
    finally:
        listener.close()
        sender.wait()


def packet_seconds(netns: str, address: str, number: int, *, fresh: bool) -> float:
    """A UDP packet between here and ``address``, by sockets of one thread: nobody has to wake up.

    ``fresh`` ones are each the first of a connection.
    """
    with _inside(netns, lambda: _datagrams(address)) as inside, _datagrams() as outside:
        taken = 0.0
        for _ in range(number):
            with _datagrams() if fresh else outside.dup() as sock:
                started = time.perf_counter()
                sock.sendto(b"x", (address, PORT))
                dummy, back = inside.recvfrom(1)
                inside.sendto(b"x", back)
                sock.recv(1)
                taken += time.perf_counter() - started
    return taken / number / 2


def _datagrams(address: str = "") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    if address:
        sock.bind((address, PORT))
    return sock


def _inside(netns: str, make: Callable[[], socket.socket]) -> socket.socket:
    made: list[socket.socket] = []
    thread = threading.Thread(target=lambda: made.append(_enter(netns, make)))
    thread.start()
    thread.join()
    if not made:
        raise OSError(f"can't make a socket inside {netns}")
    return made[0]


def _enter(netns: str, make: Callable[[], socket.socket]) -> socket.socket:
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), netns)
    os.close(fd)
    return make()


def _receive(listener: socket.socket) -> float:
    listener.settimeout(10)
    connection, _ = listener.accept()
    buffer = bytearray(CHUNK)
    total = 0
    started = time.monotonic()
    with connection:
        while received := connection.recv_into(buffer):
            total += received
    return total * 8 / (time.monotonic() - started) / 1e6


def send(address: str, port: int, seconds: float) -> None:
    chunk = bytes(CHUNK)
    with socket.create_connection((address, port), timeout=10) as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(chunk)


if __name__ == "__main__":
    send(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
