# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox's visitors notice while its neighbour attacks what both share.

Run as a script it measures this alone: bench/noisy.py [--requests N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Sequence

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "module_utils"))

from ours import Ours
from sandlot import store

REQUESTS = 1000
# Between requests, so that the visitor is not an attacker itself.
PAUSE_SECONDS = 0.002
SETTLE_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
# What a host with neighbours gives each of them.
LIMITS = {"memory": "64m", "pids_limit": 100, "cpus": 1, "restart_policy": "always"}
BUSY = "for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"
# A quota is used up on all processors at once; who must not wait for one takes another than these.
PINNED = "cpu, pinned"
WEB = "mkdir -p /www; echo ok >/www/index.html; exec httpd -f -p 80 -h /www"
QUIET = "exec sleep 1000000"
ATTACKS = {
    "cpu": BUSY,
    PINNED: BUSY,
    "memory": "while :; do tail /dev/zero; done",
    "pids": "bomb() { bomb | bomb & }; bomb; while :; do :; done",
    "disk": "while :; do dd if=/dev/zero of=/big bs=1M count=256 conv=fsync; done",
    "conntrack": (
        "for i in 1 2 3 4; do while :; do port=$((i * 10000));"
        " while test $port -lt $((i * 10000 + 9999)); do port=$((port + 1));"
        " echo x | nc -u -w 1 %(web)s $port & test $((port %% 15)) = 0 && wait; done; done & done;"
        " wait"
    ),
}

Percentiles = Dict[str, float]


def measure(ours: Ours, requests: int = REQUESTS) -> Dict[str, Any]:
    """Seconds that a request takes, idle and under each attack, by turns."""
    figures: Dict[str, Any] = {}
    for name, script in ATTACKS.items():
        _deploy(ours, QUIET)
        web = _address(ours, "web")
        idle = _visit(web, requests)
        limits = {"cpuset_cpus": str(max(os.sched_getaffinity(0)))} if name == PINNED else {}
        _deploy(ours, script % {"web": web} if "%(web)s" in script else script, **limits)
        figures[name] = {"idle": idle, "attacked": _visit(web, requests)}
    return figures


def _deploy(ours: Ours, script: str, **limits: str) -> None:
    neighbour = {"name": "neighbour", "command": ["sh", "-c", script], **LIMITS, **limits}
    instances = [{"name": "web", "command": ["sh", "-c", WEB]}, neighbour]
    ours.runner.run(ours.playbook, sandbox_instances=instances, sandbox_purge=True)


def _address(ours: Ours, name: str) -> str:
    record = store.read(ours.paths.sandbox(name).record) or {}
    address: str = record["interfaces"][0]["ipv4"].partition("/")[0]
    return address


def _visit(address: str, requests: int) -> Percentiles:
    _settle(address)
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


def _settle(address: str) -> None:
    """The server answers, and the attack is under way."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            _request(address)
            break
        except ConnectionError:
            if time.monotonic() >= deadline:
                raise
    time.sleep(SETTLE_SECONDS)


def _request(address: str) -> float:
    started = time.monotonic()
    with socket.create_connection((address, 80), timeout=TIMEOUT_SECONDS) as sock:
        sock.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    if not answer.endswith(b"ok\n"):
        raise OSError(f"{address} answered {answer!r}")
    return time.monotonic() - started


def ratio(pair: Dict[str, Percentiles], percentile: str = "p99") -> float:
    return pair["attacked"][percentile] / pair["idle"][percentile]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="sandlot-bench-", dir="/var/tmp"))
    remains: list[str] = []
    try:
        ours = Ours(directory)
        try:
            figures = measure(ours, options.requests)
        finally:
            remains = ours.clean_up()
    finally:
        shutil.rmtree(directory)
    print(json.dumps(figures, indent=1))
    for name, pair in figures.items():
        print(f"{name}: p50 x {ratio(pair, 'p50'):.1f}, p99 x {ratio(pair):.1f}")
    return 1 if remains else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
