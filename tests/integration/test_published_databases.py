# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Databases and a broker as published images have them: unmodified, used, stopped and restarted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from archives import folder
from converge_fixtures import Deployment, free_port, needs_root, sandbox
from published_images import PATH, Published, healthy, logged, sandlot, says, script, shell

pytestmark = needs_root
PACKAGES = ("postgresql-15", "mariadb-server-core", "mariadb-client-core", "redis-server")
BROKER = ("rabbitmq-server", "socat")

# Steps down with gosu; initdb's password comes through /dev/fd.
POSTGRES = """#!/usr/bin/env bash
set -Eeo pipefail
if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"; chmod 3775 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql \\! -user postgres -exec chown postgres '{}' +
    exec gosu postgres "$BASH_SOURCE" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?is needed}" "${POSTGRES_DB:=postgres}"
    eval 'initdb --no-sync --username=postgres --auth-host=scram-sha-256 \\
        --pwfile=<(printf "%s\\n" "$POSTGRES_PASSWORD")'
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | psql -v ON_ERROR_STOP=1 --username postgres
    pg_ctl -D "$PGDATA" -m fast -w stop
    echo "initialised"
fi
exec "$@"
"""
# Steps down with setpriv; its healthcheck is a script of the image.
MARIADB = """#!/bin/bash
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
REDIS = """#!/bin/sh
set -e
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then set -- redis-server "$@"; fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \\! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups -- "$0" "$@"
fi
[ "$(umask)" != 0022 ] || umask 0077
exec "$@"
"""
RABBITMQ = """#!/bin/bash
set -euo pipefail
if [[ "$1" == rabbitmq* ]] && [ "$(id -u)" = 0 ]; then
    chown -R rabbitmq /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq
    exec gosu rabbitmq "$BASH_SOURCE" "$@"
fi
if [ -n "${COOKIE:-}" ]; then
    echo "$COOKIE" >/var/lib/rabbitmq/.erlang.cookie
    chmod 600 /var/lib/rabbitmq/.erlang.cookie
fi
exec "$@"
"""


QUEUE = 'Q = rabbit_misc:r(<<"/">>, queue, <<"q">>)'
PUBLISH = f"""{QUEUE}, rabbit_amqqueue:declare(Q, true, false, [], none, <<"me">>),
    X = rabbit_misc:r(<<"/">>, exchange, <<>>), Kept = [{{delivery_mode, 2}}],
    rabbit_basic:publish(X, <<"q">>, Kept, <<"hello">>)."""
GET = f"""{QUEUE}, {{ok, A}} = rabbit_amqqueue:lookup(Q), {{ok, L}} = rabbit_limiter:start_link(x),
    rabbit_amqqueue:basic_get(A, true, L, <<>>, rabbit_queue_type:init())."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    found = Published(tmp_path_factory.mktemp("published"), [*PACKAGES, *BROKER])
    yield found
    found.remove()


def test_postgresql(host: Deployment, published: Published) -> None:
    published.image(
        "postgres", ["postgresql-15"], [script("usr/local/bin/start.sh", POSTGRES)],
        {"postgres": (999, "/var/lib/postgresql")},
        Env=[
            f"PATH=/usr/lib/postgresql/15/bin:{PATH}",
            "PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8",
        ],
        Entrypoint=["start.sh"], Cmd=["postgres"], StopSignal="SIGINT",
        ExposedPorts={"5432/tcp": {}}, Volumes={"/var/lib/postgresql/data": {}},
    )  # fmt: skip
    port = free_port()
    given = {"POSTGRES_PASSWORD": "secret", "POSTGRES_DB": "shop"}
    published.start(host, "postgres", published_ports=[f"{port}:5432"], env=given)
    query = "PGPASSWORD=secret psql -h 127.0.0.1 -U postgres -Atc '{}' shop"
    says(host, "initialised")
    shell(host, "until pg_isready -h 127.0.0.1; do sleep 0.1; done")
    shell(host, query.format("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n"))
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0
    assert "fast shutdown request" in logged(host)
    sandlot(host, "start", "web")
    shell(host, "until pg_isready -h 127.0.0.1; do sleep 0.1; done")
    assert shell(host, query.format("SELECT sum(n) FROM t")) == "500500\n"
    who = shell(host, "whoami; stat -c %U:%a $PGDATA", "-u", "postgres")
    assert who == "postgres\npostgres:700\n"
    # Nothing but the volume, and files in memory, is written to.
    options = {"published_ports": [f"{port}:5432"], "env": given, "read_only": True}
    host.converged(sandbox("web", image="postgres", command=[], **options))
    shell(host, "until pg_isready -h 127.0.0.1; do sleep 0.1; done")
    shell(host, query.format("INSERT INTO t VALUES (1)"))
    assert shell(host, query.format("SELECT sum(n) FROM t")) == "500501\n"
    assert "Read-only" in shell(host, "touch /var/lib/x 2>&1 || true")


def test_mariadb(host: Deployment, published: Published) -> None:
    check = "#!/bin/sh\nexec mariadb -S /run/mysqld/mysqld.sock -u root -e 'SELECT 1'\n"
    published.image(
        "mariadb", ["mariadb-server-core", "mariadb-client-core"],
        [script("usr/local/bin/start.sh", MARIADB), script("usr/local/bin/check.sh", check)],
        {"mysql": (999, "/nonexistent")},
        Entrypoint=["start.sh"], Cmd=["mariadbd", "--socket=/run/mysqld/mysqld.sock"],
        ExposedPorts={"3306/tcp": {}}, Volumes={"/var/lib/mysql": {}},
        Healthcheck={"Test": ["CMD", "check.sh"], "Interval": 500_000_000},
    )  # fmt: skip
    published.start(host, "mariadb", env={"MARIADB_DATABASE": "shop"})
    healthy(host)
    client = "mariadb -S /run/mysqld/mysqld.sock -u root -N shop -e"
    shell(host, f"{client} 'CREATE TABLE t AS SELECT 42 AS n'")
    sandlot(host, "restart", "web")
    healthy(host)
    assert shell(host, f"{client} 'SELECT n FROM t'") == "42\n"
    assert shell(host, "id -un", "-u", "mysql") == "mysql\n"
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0
    assert "Shutdown complete" in logged(host)


def test_redis(host: Deployment, published: Published) -> None:
    published.image(
        "redis", ["redis-server"], [script("usr/local/bin/start.sh", REDIS)],
        {"redis": (999, "/home/redis")},
        Entrypoint=["start.sh"], Cmd=["redis-server"], WorkingDir="/data",
        ExposedPorts={"6379/tcp": {}}, Volumes={"/data": {}},
        Healthcheck={"Test": ["CMD-SHELL", "redis-cli ping"], "Interval": 500_000_000},
    )  # fmt: skip
    published.start(host, "redis", command=["--save", "3600 1"])
    healthy(host)
    assert shell(host, "redis-cli set k v") == "OK\n"
    assert "Current maximum open files" not in logged(host)
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0
    assert "DB saved on disk" in logged(host)
    sandlot(host, "start", "web")
    healthy(host)
    assert shell(host, "redis-cli get k; stat -c '%U %a' dump.rdb") == "v\nredis 600\n"


def test_rabbitmq(host: Deployment, published: Published) -> None:
    published.image(
        "rabbitmq", BROKER,
        [script("usr/local/bin/start.sh", RABBITMQ), folder("etc/rabbitmq")],
        {"rabbitmq": (999, "/var/lib/rabbitmq")},
        Env=[
            f"PATH=/usr/lib/rabbitmq/bin:{PATH}",
            "HOME=/var/lib/rabbitmq", "LANG=C.UTF-8", "RABBITMQ_LOGS=-",
        ],
        Entrypoint=["start.sh"], Cmd=["rabbitmq-server"],
        ExposedPorts={"5672/tcp": {}}, Volumes={"/var/lib/rabbitmq": {}},
    )  # fmt: skip
    published.start(host, "rabbitmq", env={"COOKIE": "secret"})
    says(host, "Server startup complete")
    assert shell(host, f"rabbitmqctl eval '{PUBLISH}'", "-u", "rabbitmq") == "ok\n"
    sandlot(host, "restart", "web")
    says(host, "Server startup complete", times=2)
    assert '<<"hello">>' in shell(host, f"rabbitmqctl eval '{GET}'", "-u", "rabbitmq")
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0
