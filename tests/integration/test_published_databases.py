# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A store and a broker as published images have them: unmodified, used, stopped and restarted.

PostgreSQL and MariaDB are in test_data_databases.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from archives import folder
from converge_fixtures import Deployment, needs_root
from published_images import PATH, Published, healthy, logged, sandlot, says, script, shell

pytestmark = needs_root
BROKER = ("rabbitmq-server", "socat")

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
    found = Published(tmp_path_factory.mktemp("published"), ["redis-server", *BROKER])
    yield found
    found.remove()


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
