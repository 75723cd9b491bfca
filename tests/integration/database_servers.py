# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""PostgreSQL and MariaDB as published images have them, used by clients that note each answer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from converge_fixtures import Deployment, eventually
from published_images import PATH, Published, environment, script, shell

# Steps down with gosu; initdb's password comes through /dev/fd.
_POSTGRES_SCRIPT = """#!/usr/bin/env bash
set -Eeo pipefail
if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"; chmod 3775 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql \\! -user postgres -exec chown postgres '{}' +
    exec gosu postgres "$BASH_SOURCE" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    [ -z "$POSTGRES_PASSWORD_FILE" ] || POSTGRES_PASSWORD=$(<"$POSTGRES_PASSWORD_FILE")
    : "${POSTGRES_PASSWORD:?is needed}" "${POSTGRES_DB:=postgres}"
    eval 'initdb --no-sync --username=postgres --auth-host=scram-sha-256 \\
        --pwfile=<(printf "%s\\n" "$POSTGRES_PASSWORD") '"$POSTGRES_INITDB_ARGS"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | psql -v ON_ERROR_STOP=1 --username postgres
    fi
    pg_ctl -D "$PGDATA" -m fast -w stop
    echo "initialised"
fi
exec "$@"
"""
# Steps down with setpriv; its healthcheck is a script of the image.
_MARIADB_SCRIPT = """#!/bin/bash
set -eo pipefail
DATADIR=/var/lib/mysql
mkdir -p "$DATADIR" /run/mysqld
if [ "$(id -u)" = 0 ]; then
    find "$DATADIR" /run/mysqld \\! -user mysql -exec chown mysql:mysql '{}' +
    exec setpriv --reuid=mysql --regid=mysql --init-groups "${BASH_SOURCE[0]}" "$@"
fi
if [ ! -d "$DATADIR/mysql" ]; then
    mariadb-install-db --datadir="$DATADIR" --skip-test-db --auth-root-authentication-method=normal
    "$@" --skip-networking --socket=/run/mysqld/first.sock &
    until mariadb -S /run/mysqld/first.sock -u root -e 'SELECT 1'; do sleep 0.1; done
    mariadb -S /run/mysqld/first.sock -u root -e "CREATE DATABASE ${MARIADB_DATABASE:-none}"
    kill "$!"; wait "$!"
fi
exec "$@"
"""
_MARIADB_CHECK = "#!/bin/sh\nexec mariadb -S /run/mysqld/mysqld.sock -u root -e 'SELECT 1'\n"


@dataclasses.dataclass(frozen=True)
class Program:
    """A database: its image, and what its users do."""

    image: str
    packages: tuple[str, ...]
    files: tuple[Any, ...]
    users: dict[str, tuple[int, str]]
    settings: dict[str, Any]
    directory: str
    """Where it has its data, the image's VOLUME."""
    options: dict[str, Any]
    """What a sandbox of it is given."""
    client: str
    check: str
    """Fails when anything is damaged."""
    kill: str
    """Ends the server without a word."""
    goodbye: str
    """What the server logs when it is stopped by its signal."""

    def tag(self, version: str) -> str:
        return f"{self.image}-{version}"

    def publish(self, published: Published, version: str, *files: Any) -> None:
        every = [*self.files, *files]
        published.image(self.tag(version), self.packages, every, self.users, **self.settings)


POSTGRESQL = Program(
    image="postgres",
    packages=("postgresql-15",),
    files=(script("usr/local/bin/start.sh", _POSTGRES_SCRIPT),),
    users={"postgres": (999, "/var/lib/postgresql")},
    settings={
        "Env": [
            f"PATH=/usr/lib/postgresql/15/bin:{PATH}",
            "PGDATA=/var/lib/postgresql/data",
            "LANG=C.UTF-8",
        ],
        "Entrypoint": ["start.sh"],
        "Cmd": ["postgres"],
        "StopSignal": "SIGINT",
        "ExposedPorts": {"5432/tcp": {}},
        "Volumes": {"/var/lib/postgresql/data": {}},
    },
    directory="/var/lib/postgresql/data",
    options={
        "env": {
            "POSTGRES_PASSWORD": "secret",
            "POSTGRES_DB": "shop",
            "POSTGRES_INITDB_ARGS": "--data-checksums",
        },
        "healthcheck": {
            "test": "pg_isready -h 127.0.0.1",
            "interval": "300ms",
            # Long enough for a recovery.
            "start_period": "60s",
        },
    },
    client="PGPASSWORD=secret exec psql -h 127.0.0.1 -U postgres -qAt -v ON_ERROR_STOP=1 shop",
    check=(
        "export PGPASSWORD=secret PGHOST=127.0.0.1 PGUSER=postgres;"
        " pg_amcheck --install-missing --heapallindexed --all"
        " && psql -Atc 'SHOW data_checksums;"
        " SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database' | xargs"
        " | grep -x 'on 0'"
    ),
    kill="kill -KILL $(head -n 1 $PGDATA/postmaster.pid)",
    goodbye="fast shutdown request",
)
MARIADB = Program(
    image="mariadb",
    packages=("mariadb-server-core", "mariadb-client-core"),
    files=(
        script("usr/local/bin/start.sh", _MARIADB_SCRIPT),
        script("usr/local/bin/check.sh", _MARIADB_CHECK),
    ),
    users={"mysql": (999, "/nonexistent")},
    settings={
        "Entrypoint": ["start.sh"],
        "Cmd": ["mariadbd", "--socket=/run/mysqld/mysqld.sock", "--pid-file=/run/mysqld/pid"],
        "ExposedPorts": {"3306/tcp": {}},
        "Volumes": {"/var/lib/mysql": {}},
        "Healthcheck": {
            "Test": ["CMD", "check.sh"],
            "Interval": 300_000_000,
            "StartPeriod": 60_000_000_000,
        },
    },
    directory="/var/lib/mysql",
    options={"env": {"MARIADB_DATABASE": "shop"}},
    client="exec mariadb -S /run/mysqld/mysqld.sock -u root --batch -N --unbuffered shop",
    check=(
        "mariadb-check -S /run/mysqld/mysqld.sock -u root --check --extended --all-databases"
        " >/tmp/checked; cat /tmp/checked; test -s /tmp/checked && ! grep -v 'OK$' /tmp/checked"
    ),
    kill="kill -KILL $(cat /run/mysqld/pid)",
    goodbye="Shutdown complete",
)


class Database:
    """One database of a host, and the rows that it has acknowledged to a client."""

    def __init__(self, host: Deployment, name: str, program: Program, **options: Any) -> None:
        self.host = host
        self.name = name
        self.program = program
        self.image = program.image
        self.options = {"restart_policy": "always", **program.options, **options}
        self.acknowledged: list[int] = []

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "image": self.image, **self.options}

    def is_healthy(self) -> bool:
        return bool(self.host.info(self.name)["health"] == "healthy")

    def query(self, text: str) -> str:
        return shell(self.host, f"{self.program.client} <<'END'\n{text};\nEND", name=self.name)

    def on(self, host: Deployment) -> Database:
        """The same database on another host, where its rows are to be."""
        there = copy.copy(self)
        there.host = host
        return there

    def begin(self) -> None:
        self.query("CREATE TABLE numbers (n INTEGER PRIMARY KEY, digest CHAR(32))")

    @contextlib.contextmanager
    def written_to(self) -> Iterator[Writer]:
        """A client writes meanwhile; it may lose its connection."""
        writer = Writer(self)
        try:
            eventually(lambda: len(writer.acknowledged) >= 20 or not writer.running())
            assert writer.running(), writer.end()
            yield writer
        finally:
            writer.end()
            self.acknowledged += writer.acknowledged

    def proved(self, at_least: int | None = None) -> None:
        """Of the rows that were acknowledged all, or the first, are there; nothing is damaged."""
        shell(self.host, self.program.check, name=self.name)
        found = [int(line) for line in self.query("SELECT n FROM numbers ORDER BY n").split()]
        # A client may have lost its connection before the last answer.
        last = self.acknowledged[-1] + 1
        assert found == [*self.acknowledged, last][: len(found)]
        assert len(found) >= (len(self.acknowledged) if at_least is None else at_least)
        assert self.query("SELECT count(*) FROM numbers WHERE digest <> md5(concat(n))") == "0\n"
        self.acknowledged = found


def healthy(*databases: Database) -> None:
    """Each answers, however often it was started."""
    eventually(lambda: all(each.is_healthy() for each in databases), seconds=40)


class Writer:
    """Inserts one row after the other by `sandlot exec`, and notes which were acknowledged."""

    def __init__(self, database: Database) -> None:
        self.acknowledged: list[int] = []
        self._next = max(database.acknowledged, default=0) + 1
        host, pipe = database.host, subprocess.PIPE
        words = [host.paths.command, "exec", "-i", database.name, "--", "sh", "-c"]
        self._process = subprocess.Popen(
            [*words, database.program.client],
            env=environment(host), text=True, stdin=pipe, stdout=pipe, stderr=pipe,
        )  # fmt: skip
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            for number in itertools.count(self._next):
                if self._ended.is_set():
                    break
                row = f"INSERT INTO numbers VALUES ({number}, md5('{number}')) RETURNING n;\n"
                self._process.stdin.write(row)
                self._process.stdin.flush()
                if self._process.stdout.readline() != f"{number}\n":
                    break
                self.acknowledged.append(number)

    def running(self) -> bool:
        return self._thread.is_alive()

    def goes_on(self) -> None:
        number = len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) > number + 10)

    def end(self) -> str:
        """What the client complained of."""
        self._ended.set()
        self._thread.join()
        _, complaints = self._process.communicate()
        return complaints
