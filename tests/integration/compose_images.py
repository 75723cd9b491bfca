# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The images that the Compose files of compose/ name: real databases, caches and proxies, and
small applications in place of large ones. They are in one layout of the host."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import static_busybox
from archives import entry, folder, link, pack
from oci_images import LAYER, Layout
from published_images import PATH, Archive, accounts, archive, script
from test_published_databases import REDIS
from test_published_services import owned

FILES = Path(__file__).parent / "compose"
_Entries = Sequence["tuple[tarfile.TarInfo, bytes]"]
PACKAGES = ("postgresql-15", "redis-server", "nginx-light", "python3", "python3-psycopg2")
_APPLETS = (
    *(
        "cat",
        "chmod",
        "chown",
        "cp",
        "date",
        "env",
        "find",
        "grep",
        "hostname",
        "id",
        "ls",
        "mkdir",
    ),
    *("mv", "nc", "rm", "sed", "setpriv", "sh", "sleep", "stat", "test"),
    *("touch", "wget"),
)
# What neither the programs nor the applications need, and what busybox has.
_BULK = (
    *(
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/share/postgresql/15/tsearch_data",
        "usr/share/zoneinfo",
    ),
    *("usr/lib/python3.11/lib2to3", "usr/lib/python3.11/idlelib", "usr/lib/python3.11/unittest"),
    *("usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/distutils", "usr/share/python-wheels"),
)
_POSTGRES = r"""#!/bin/bash
set -Eeo pipefail
file_env() {
    local file="${1}_FILE"
    [ -z "${!file:-}" ] || export "$1=$(<"${!file}")"
    unset "$file"
}
if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"; chmod 3775 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
    exec gosu postgres "$BASH_SOURCE" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    for each in POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB; do file_env "$each"; done
    : "${POSTGRES_PASSWORD:?is needed}" "${POSTGRES_USER:=postgres}"
    : "${POSTGRES_DB:=$POSTGRES_USER}"
    initdb --no-sync --username="$POSTGRES_USER" --auth-host=scram-sha-256 \
        --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    psql=(psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password)
    if [ "$POSTGRES_DB" != postgres ]; then
        "${psql[@]}" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
    fi
    for each in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$each" ] || "${psql[@]}" -d "$POSTGRES_DB" -f "$each"
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
"""
# Published ones are made with this default.
_OPEN = '[ "$1" != redis-server ] || set -- "$@" --protected-mode no\n'
_REDIS = REDIS.removesuffix('exec "$@"\n') + _OPEN + 'exec "$@"\n'
_NGINX = b"""
user nginx;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    access_log /var/log/nginx/access.log;
    include /etc/nginx/conf.d/*.conf;
}
"""
_NGINX_SITE = (
    b"server { listen 80; location / { root /usr/share/nginx/html; index index.html; } }\n"
)


class _Layout(Layout):
    """Images share layers, which are written once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._written: dict[int, tuple[bytes, dict[str, Any]]] = {}

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        if id(data) not in self._written:
            self._written[id(data)] = (data, super().blob(data, kind))
        return self._written[id(data)][1]


class Images:
    """``options`` is what the lookup is given as its ``images``."""

    def __init__(self, directory: Path) -> None:
        self._layout = _Layout(directory)
        self._packages = archive()
        self._packages.fetch(PACKAGES)
        self.options: dict[str, dict[str, str]] = {}
        self._programs()
        self._applications()

    def _programs(self) -> None:
        self._image(
            "postgres:16-alpine", "postgres",
            [_slim(self._packages, "postgresql-15", "gosu", "bash", "libc-bin")],
            [script("usr/local/bin/docker-entrypoint.sh", _POSTGRES)],
            {"postgres": (999, "/var/lib/postgresql")},
            Env=[f"PATH=/usr/lib/postgresql/15/bin:{PATH}", "PGDATA=/var/lib/postgresql/data",
                 "LANG=C.UTF-8"],
            Entrypoint=["docker-entrypoint.sh"], Cmd=["postgres"], StopSignal="SIGINT",
            ExposedPorts={"5432/tcp": {}}, Volumes={"/var/lib/postgresql/data": {}},
        )  # fmt: skip
        self._image(
            "redis:7-alpine", "redis", [_slim(self._packages, "redis-server", "util-linux")],
            [script("usr/local/bin/docker-entrypoint.sh", _REDIS)], {"redis": (999, "/home/redis")},
            Entrypoint=["docker-entrypoint.sh"], Cmd=["redis-server"], WorkingDir="/data",
            ExposedPorts={"6379/tcp": {}}, Volumes={"/data": {}},
        )  # fmt: skip
        self._image(
            "nginx:1.27-alpine", "nginx", [_slim(self._packages, "nginx-light")],
            [
                entry("etc/nginx/nginx.conf", _NGINX), folder("etc/nginx/conf.d"),
                entry("etc/nginx/conf.d/default.conf", _NGINX_SITE),
                link("var/log/nginx/access.log", "/dev/stdout"),
                link("var/log/nginx/error.log", "/dev/stderr"),
            ],
            {"nginx": (101, "/var/cache/nginx")},
            Cmd=["nginx", "-g", "daemon off;"], StopSignal="SIGQUIT", ExposedPorts={"80/tcp": {}},
        )  # fmt: skip

    def _applications(self) -> None:
        layers = [_slim(self._packages, "python3", "python3-psycopg2")]
        files = [
            entry(f"opt/{path.name}", path.read_bytes())
            for path in sorted((FILES / "apps").glob("*.py"))
        ]

        programs = [
            script(f"usr/local/bin/{name}", f'#!/bin/sh\nexec python3 -u /opt/{name}.py "$@"\n')
            for name in ("guestbook", "forum", "ci", "ssg")
        ]

        def image(reference: str, name: str = "", **settings: Any) -> None:
            command = {"Entrypoint": ["python3", "-u", f"/opt/{name}.py"]} if name else {}
            self._image(
                reference, name or "python", layers, files,
                {"app": (1000, "/home/app"), "grafana": (472, "/var/lib/grafana")},
                *owned(1000, folder("config"), folder("data")),
                *owned(472, folder("var/lib/grafana")), folder("prometheus"), folder("var/lib/ci"),
                link("usr/local/bin/python", "/usr/bin/python3"), *programs,
                **{"Env": [f"PATH={PATH}", "PYTHONPATH=/opt"], **command, **settings},
            )  # fmt: skip

        image("python:3.12-slim", Cmd=["python3"])
        # Commands name the program there, so one image serves all.
        for reference in (
            *("ghcr.io/example/guestbook:1.4", "ghcr.io/example/forum:3"),
            *("woodpeckerci/woodpecker-server:v3", "ghcr.io/example/ssg:0.9"),
        ):
            self.options[reference] = self.options["python:3.12-slim"]
        image("hashicorp/http-echo:1.0", "echo")
        image("prom/node-exporter:v1.8.2", "exporter", User="nobody")
        image("prom/prometheus:v2.54.1", "prometheus", Volumes={"/prometheus": {}})
        image("grafana/grafana:11.2.0", "grafana", User="472")
        image("lscr.io/example/wiki:2", "wiki", User="app", Volumes={"/config": {}})
        image("axllent/mailpit:v1.20", "mailpit", Volumes={"/data": {}})

    def _image(
        self,
        reference: str,
        tag: str,
        layers: list[bytes],
        files: _Entries,
        users: dict[str, tuple[int, str]],
        *more: tuple[tarfile.TarInfo, bytes],
        **settings: Any,
    ) -> None:
        last = pack(*accounts(users), *files, *more)
        settings = {"Env": [f"PATH={PATH}"], **settings}
        self._layout.image(tag, [*layers, last], settings, compress=bytes, kind=LAYER)
        self.options[reference] = {"source": "oci", "reference": f"oci:{self._layout.path}:{tag}"}


def _slim(packages: Archive, *names: str) -> bytes:
    """The packages with busybox around them, as images of Alpine have it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as kept:
        first = [link(name, f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")]
        busybox = entry("usr/bin/busybox", static_busybox.PROGRAM.read_bytes(), mode=0o755)
        for member, content in (*first, busybox):
            kept.addfile(member, io.BytesIO(content))
        there = set()
        # The shell of busybox would run its own applets, whatever programs there are.
        with tarfile.open(fileobj=io.BytesIO(packages.whole("dash", *names))) as source:
            for member in source:
                if member.name.startswith(_BULK):
                    continue
                there.add(member.name)
                kept.addfile(member, source.extractfile(member) if member.isreg() else None)
        for name in _APPLETS:
            if f"usr/bin/{name}" not in there:
                kept.addfile(link(f"usr/bin/{name}", "busybox")[0])
    return buffer.getvalue()
