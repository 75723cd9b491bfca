# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A visitor of a web server: visit.py ADDRESS REQUESTS prints the percentiles in seconds."""

from __future__ import annotations

import json
import socket
import sys
import time

# Between requests, so that the visitor is not an attacker itself.
PAUSE_SECONDS = 0.002
TIMEOUT_SECONDS = 10.0


def visit(address: str, requests: int) -> dict[str, float]:
    taken = []
    for _ in range(requests):
        time.sleep(PAUSE_SECONDS)
        taken.append(_request(address))
    taken.sort()
    return {
        "p50": taken[len(taken) // 2],
        "p99": taken[len(taken) * 99 // 100],
        "worst": taken[-1],
    }


def wait_for(address: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            _request(address)
            return
        except ConnectionError:
            if time.monotonic() >= deadline:
                raise


def _request(address: str) -> float:
    started = time.monotonic()
    with socket.create_connection((address, 80), timeout=TIMEOUT_SECONDS) as sock:
        sock.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    if not answer.endswith(b"ok\n"):
        raise OSError(f"{address} answered {answer!r}")
    return time.monotonic() - started


if __name__ == "__main__":
    wait_for(sys.argv[1])
    print(json.dumps(visit(sys.argv[1], int(sys.argv[2]))))
