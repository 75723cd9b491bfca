# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""PostgreSQL on a volume against the same server, files and client on the host, by turns."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Dict

import clock
from collection import NotAvailable
from ours import WORKLOAD, Ours
from rows import Figures, Row, middle, plain, ratios, times
from setting import Bench

USER = "postgres"
NAME = "database"
VOLUME = "bench-data"
# There on every host, and empty in the namespace that the server of the host has.
TARGET = "/mnt"
MODES = {"read-write": [], "read-only": ["--select-only"]}

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
# Of 300 MB at the scale of 20, which the server keeps in memory.
_FILL = f'{_SERVER}pgbench --initialize --quiet --scale="$1" postgres 2>/dev/null\n'
_RUN = f'{_SERVER}psql -qc CHECKPOINT postgres\npgbench --no-vacuum "$@" postgres 2>/dev/null\n'


def programs() -> Path:
    """Where this machine has PostgreSQL, which is not installed for anybody."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    if not found:
        raise NotAvailable("PostgreSQL is not installed")
    return found[-1].parent


def measure(bench: Bench) -> Figures:
    """Transactions per second on each side."""
    sizes, where = bench.sizes, programs()
    figures: Figures = {mode: {"host": [], "volume": []} for mode in MODES}
    clients = [f"--client={2 * (os.cpu_count() or 1)}", f"--jobs={os.cpu_count()}"]
    with bench.ours() as ours:
        _deploy(ours)
        sides: Dict[str, _Host | _Sandbox] = {
            "host": _Host(ours, where),
            "volume": _Sandbox(ours, where),
        }
        sides["volume"].run(_FILL, str(sizes.database_scale))
        for turn in range(sizes.repetitions + 2):
            for mode, options in MODES.items():
                # The first of each pair changes: the second finds what the first has warmed up.
                for side in sorted(sides, reverse=bool(turn % 2)):
                    words = [*clients, f"--time={sizes.database_seconds}", *options]
                    figures[mode][side].append(_rate(sides[side].run(_RUN, *words)))
    return figures


def _deploy(ours: Ours) -> None:
    instance = {
        "name": NAME,
        "image": "this-host",
        "user": USER,
        "command": WORKLOAD,
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
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        self._words = [*enter, "sh", "-c", _ENTER, "sh", data(ours), USER]
        self._where = where

    def run(self, script: str, *words: str) -> str:
        command = [*self._words, "sh", "-c", script, "sh", str(self._where), *words]
        return clock.run(command, environment={}).output


# A change of ids undoes --kill-child, so the shell stays: a killed bench leaves no server.
_ENTER = """
mount --bind "$1" /mnt
user="$2"; shift 2
setpriv --reuid="$user" --regid="$user" --init-groups "$@" || exit
"""


class _Sandbox:
    """The server in the sandbox."""

    def __init__(self, ours: Ours, where: Path) -> None:
        self._ours = ours
        self._where = where

    def run(self, script: str, *words: str) -> str:
        inside = ["sh", "-c", script, "sh", str(self._where), *words]
        return self._ours.command("exec", NAME, "--", *inside).output


def _rate(output: str) -> float:
    line = next(line for line in output.splitlines() if line.startswith("tps = "))
    return float(line.split()[2])


def rows(figures: Figures) -> list[Row]:
    return [_row(mode, pair["volume"], pair["host"]) for mode, pair in figures.items()]


def _row(mode: str, inside: list[float], outside: list[float]) -> Row:
    ratio = ratios(inside, outside)
    figure = f"{times(ratio)}: {plain(inside, '')} and {plain(outside, '')} transactions a second"
    what = f"pgbench on a volume, {mode}: on the host"
    return Row(what, figure, "at least 0.97x", middle(ratio) >= 0.97)
