# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""PostgreSQL on a volume against the same server, files and client on the host, by turns.

Run as a script it measures this alone: bench/databases.py [--rounds N] [--seconds N]
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

if __name__ == "__main__":
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parent / "module_utils"), str(HERE.parent / "tests")]

from collection import NotAvailable
from ours import Ours

ROUNDS = 5
SECONDS = 6
# 300 MB, which the server keeps in memory.
SCALE = 20
USER = "postgres"
NAME = "database"
VOLUME = "bench-data"
# There on every host, and empty in the namespace that the server of the host has.
TARGET = "/mnt"
MODES = {"read-write": [], "read-only": ["--select-only"]}
Figures = Dict[str, Any]

# The same on both sides, the client too. Its socket is among the data.
_SERVER = """
set -eu
cd /
PATH="$1:$PATH"; shift
export PGDATA=/mnt/cluster PGHOST=/mnt
test -e "$PGDATA" || initdb --no-sync --auth=trust >/dev/null
settings="-k /mnt -c listen_addresses= -c shared_buffers=512MB -c max_wal_size=4GB"
pg_ctl --wait --log=/mnt/log -o "$settings" start >/dev/null
trap 'pg_ctl --wait --mode=fast stop >/dev/null' EXIT
"""
_FILL = f"{_SERVER}pgbench --initialize --quiet --scale={SCALE} postgres 2>/dev/null\n"
_RUN = f'{_SERVER}psql -qc CHECKPOINT postgres\npgbench --no-vacuum "$@" postgres 2>/dev/null\n'


def programs() -> Path:
    """Where this machine has PostgreSQL, which is not installed for anybody."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    if not found:
        raise NotAvailable("PostgreSQL is not installed")
    return found[-1].parent


def measure(ours: Ours, rounds: int = ROUNDS, seconds: int = SECONDS) -> Figures:
    """Transactions per second on each side."""
    print("  PostgreSQL on a volume and on the host", flush=True)
    where = programs()
    _deploy(ours)
    sides = {"host": _Host(ours, where), "volume": _Sandbox(ours, where)}
    sides["volume"].run(_FILL)
    clients = [f"--client={2 * (os.cpu_count() or 1)}", f"--jobs={os.cpu_count()}"]
    figures: Figures = {mode: {side: [] for side in sides} for mode in MODES}
    for turn in range(rounds):
        for mode, options in MODES.items():
            # The first of each pair changes: the second finds what the first has warmed up.
            for side in sorted(sides, reverse=bool(turn % 2)):
                output = sides[side].run(_RUN, *clients, f"--time={seconds}", *options)
                figures[mode][side].append(_rate(output))
    return figures


def _deploy(ours: Ours) -> None:
    instance = {
        "name": NAME,
        "image": "this-host",
        "user": USER,
        "command": ["sleep", "1000000"],
        "volumes": [f"{VOLUME}:{TARGET}:nocopy"],
    }
    images = [{"name": "this-host", "source": "host_overlay"}]
    ours.runner.run(
        ours.playbook, sandbox_images=images, sandbox_instances=[instance], sandbox_purge=True
    )
    owner = pwd.getpwnam(USER)
    os.chown(data(ours), owner.pw_uid, owner.pw_gid)


def data(ours: Ours) -> str:
    return f"{ours.paths.state}/volumes/{VOLUME}/data"


class _Host:
    """The server as a user of the host, with the volume's files where the sandbox has them."""

    def __init__(self, ours: Ours, where: Path) -> None:
        self._words = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", data(ours), USER]
        self._where = where

    def run(self, script: str, *words: str) -> str:
        return _output([*self._words, "sh", "-c", script, "sh", str(self._where), *words])


_ENTER = """
mount --bind "$1" /mnt
user="$2"; shift 2
exec setpriv --reuid="$user" --regid="$user" --init-groups "$@"
"""


class _Sandbox:
    """The server in the sandbox."""

    def __init__(self, ours: Ours, where: Path) -> None:
        self._words = [ours.paths.command, "exec", NAME, "--"]
        self._environment = ours.environment
        self._where = where

    def run(self, script: str, *words: str) -> str:
        command = [*self._words, "sh", "-c", script, "sh", str(self._where), *words]
        return _output(command, **self._environment)


def _output(command: Sequence[str], **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"{command[0]} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def _rate(output: str) -> float:
    line = next(line for line in output.splitlines() if line.startswith("tps = "))
    return float(line.split()[2])


def ratios(pair: Dict[str, List[float]]) -> list[float]:
    return [inside / outside for inside, outside in zip(pair["volume"], pair["host"])]


def main(arguments: Sequence[str]) -> int:
    import statistics

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="sandlot-bench-", dir="/var/tmp"))
    remains: list[str] = []
    try:
        ours = Ours(directory)
        try:
            figures = measure(ours, options.rounds, options.seconds)
        finally:
            remains = ours.clean_up()
    finally:
        shutil.rmtree(directory)
    print(json.dumps(figures, indent=1))
    for mode, pair in figures.items():
        print(f"{mode}: {statistics.median(ratios(pair)):.3f} of the host's rate")
    return 1 if remains else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
