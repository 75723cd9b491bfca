# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""TCP throughput into a network namespace, without programs to install on either side.

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
from typing import Sequence

CHUNK = 1 << 20
PORT = 5201
CLONE_NEWNET = 0x40000000


def megabits_per_second(netns: str, address: str, seconds: float, prefix: Sequence[str]) -> float:
    """From where ``prefix`` leads to (the host without one) to ``address`` inside ``netns``."""
    listener = _listener(netns, address)
    sender = subprocess.Popen(
        [*prefix, sys.executable, "-ISE", __file__, address, str(PORT), str(seconds)]
    )
    try:
        return _receive(listener)
    finally:
        listener.close()
        sender.wait()


def _listener(netns: str, address: str) -> socket.socket:
    made: list[socket.socket] = []
    thread = threading.Thread(target=lambda: made.append(_listen_inside(netns, address)))
    thread.start()
    thread.join()
    if not made:
        raise OSError(f"can't listen on {address} inside {netns}")
    return made[0]


def _listen_inside(netns: str, address: str) -> socket.socket:
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), netns)
    os.close(fd)
    return socket.create_server((address, PORT))


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
