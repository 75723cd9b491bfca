# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Web servers, language runtimes and daemons as published images have them: unmodified, used,
stopped and restarted."""

from __future__ import annotations

import functools
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import entry, folder, link
from converge_fixtures import Deployment, eventually, free_port, needs_root, sandbox
from image_fixtures import prepare
from plays import play, run_here
from published_images import (
    PATH,
    Published,
    healthy,
    logged,
    page,
    sandlot,
    says,
    script,
    shell,
)
from visitors import LARGE, Visitors, answer_on_its_way, rest_of

pytestmark = needs_root
PACKAGES = (
    *("nginx-light", "haproxy", "nodejs", "gunicorn", "php8.2-fpm", "openssh-server", "cron"),
    *("rsyslog", "supervisor", "dumb-init", "runit"),
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    found = Published(tmp_path_factory.mktemp("published"), PACKAGES)
    yield found
    found.remove()


NGINX = """#!/bin/sh
set -e
for each in /docker-entrypoint.d/*; do
    case $each in *.sh) [ -x "$each" ] && "$each";; esac
done
exec "$@"
"""
NGINX_CONFIG = b"""
user www-data;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /var/run/nginx.pid;
events { worker_connections 1024; }
http {
    access_log /var/log/nginx/access.log;
    server {
        listen 80;
        root /usr/share/nginx/html;
        location ~ [.]php$ {
            include fastcgi_params;
            fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            fastcgi_pass 127.0.0.1:9000;
        }
    }
}
"""
# What a published image does with sed and envsubst.
NGINX_TUNE = """#!/bin/sh
set -eu
sed -i 's/worker_connections .*;/worker_connections 512;/' /etc/nginx/nginx.conf
echo "$0: tuned"
"""


def publish_nginx(published: Published) -> None:
    published.image(
        "nginx", ["nginx-light"],
        [
            script("entrypoint.sh", NGINX), script("docker-entrypoint.d/10-tune.sh", NGINX_TUNE),
            entry("etc/nginx/nginx.conf", NGINX_CONFIG),
            link("var/log/nginx/access.log", "/dev/stdout"),
            link("var/log/nginx/error.log", "/dev/stderr"),
            entry("usr/share/nginx/html/index.html", b"a page\n"),
        ],
        {"www-data": (33, "/var/www")},
        Entrypoint=["/entrypoint.sh"], Cmd=["nginx", "-g", "daemon off;"], StopSignal="SIGQUIT",
        ExposedPorts={"80/tcp": {}},
    )  # fmt: skip


def test_nginx(host: Deployment, published: Published) -> None:
    publish_nginx(published)
    port = free_port()
    published.start(host, "nginx", published_ports=[f"{port}:80"])
    eventually(lambda: page(port) == "a page\n")
    says(host, "GET / HTTP/1.1")
    # Opens its logs again; the workers keep theirs.
    shell(host, "nginx -s reopen")
    says(host, "reopening logs")
    sandlot(host, "restart", "web")
    eventually(lambda: page(port) == "a page\n")
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0
    assert "gracefully shutting down" in logged(host)
    # Its page comes from the host, which changes it; the entry point would tune a read-only file.
    html = Path(host.paths.root, "html")
    html.mkdir()
    (html / "index.html").write_text("another page\n")
    options: dict[str, Any] = {
        "entrypoint": ["nginx", "-g", "daemon off;"],
        "published_ports": [f"{port}:80"],
        "volumes": [f"{html}:/usr/share/nginx/html:ro"],
        "tmpfs": ["/var/lib/nginx"],
    }
    host.converged(sandbox("web", image="nginx", command=[], read_only=True, **options))
    eventually(lambda: page(port) == "another page\n")
    (html / "index.html").write_text("a third page\n")
    assert page(port) == "a third page\n"


TEMPLATE = """\
user www-data;
events {}
http {
    server {
        listen 80;
        root /usr/share/nginx/html;
        location = / { return 200 "{{ greeting }}"; }
    }
}
"""


def test_nginx_takes_a_changed_file_while_it_serves(host: Deployment, published: Published) -> None:
    """No request fails, no answer on its way is cut off, nothing restarts."""
    publish_nginx(published)
    prepare(host, published.source("nginx"))
    templates = Path(host.paths.root, "templates")
    templates.mkdir()
    (templates / "nginx.conf.j2").write_text(TEMPLATE)
    port = free_port()
    file = {
        "target": "/etc/nginx/nginx.conf",
        "template_src": "nginx.conf.j2",
        "on_change": "reload",
    }
    options: dict[str, Any] = {
        "entrypoint": ["nginx", "-g", "daemon off;"],
        "published_ports": [f"{port}:80"],
        "files": [file],
    }

    def deploy(greeting: str) -> dict[str, Any]:
        task = {"sandbox": sandbox("web", image="nginx", command=[], **options)}
        shown = functools.partial(play, run=lambda words, env: run_here([*words, "--diff"], env))
        (result,) = shown(host.paths, {**task, "vars": {"greeting": greeting}})
        return result

    deploy("hello")
    eventually(lambda: page(port) == "hello")
    shell(host, f"head -c {LARGE} /dev/zero >/usr/share/nginx/html/large")
    pid = host.pid("web")
    with Visitors(port) as visitors, answer_on_its_way(port, "/large") as answer:
        visitors.all_see("hello")
        result = deploy("good day")
        visitors.all_see("good day")
        assert rest_of(answer) == LARGE
    assert visitors.complaints == []
    assert (host.pid("web"), host.info("web")["restarts"]) == (pid, 0)
    assert result["actions"][-2:] == [
        "web: replace /etc/nginx/nginx.conf",
        "web: send SIGHUP to the workload",
    ]
    texts = [(each["before"], each["after"]) for each in result["diff"]]
    before = TEMPLATE.replace("{{ greeting }}", "hello")
    assert (before, before.replace("hello", "good day")) in texts


HAPROXY = b"""
global
    log stdout format raw local0
defaults
    mode http
    log global
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend web
    bind :80
    default_backend own
backend own
    server one 127.0.0.1:8080
frontend own
    bind 127.0.0.1:8080
    http-request return status 200 content-type text/plain string forwarded
"""


def test_haproxy(host: Deployment, published: Published) -> None:
    """Starts as its own user, and binds port 80 all the same."""
    start = '#!/bin/sh\nset -e\nif [ "$1" = haproxy ]; then shift; set -- haproxy -W -db "$@"; fi\n'
    published.image(
        "haproxy", ["haproxy"],
        [
            script("usr/local/bin/start.sh", f'{start}exec "$@"\n'),
            entry("usr/local/etc/haproxy/haproxy.cfg", HAPROXY),
        ],
        {"haproxy": (99, "/var/lib/haproxy")},
        Entrypoint=["start.sh"], Cmd=["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
        User="haproxy", WorkingDir="/var/lib/haproxy", StopSignal="SIGUSR1",
    )  # fmt: skip
    port = free_port()
    published.start(host, "haproxy", published_ports=[f"{port}:80"])
    eventually(lambda: page(port) == "forwarded")
    assert shell(host, "id -un") == "haproxy\n"
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0


NODE = b"""
const server = require("http").createServer((request, response) => {
  response.end(`node of ${process.getuid()} in ${process.cwd()}\\n`);
});
server.listen(process.env.PORT, () => console.log("listening"));
process.on("SIGTERM", () => server.close(() => console.log("closed")));
"""


def test_node(host: Deployment, published: Published) -> None:
    """An unprivileged user under tini, in the form of a shell."""
    published.image(
        "node", ["nodejs"], [folder("home/node/app"), entry("home/node/app/server.js", NODE)],
        {"node": (1000, "/home/node")},
        Env=[f"PATH={PATH}", "PORT=3000", "NODE_ENV=production"], User="node",
        WorkingDir="/home/node/app", Entrypoint=["/usr/bin/tini", "--"],
        Cmd=["/bin/sh", "-c", "exec node server.js"], ExposedPorts={"3000/tcp": {}},
        OnBuild=["COPY package.json /home/node/app/"], Shell=["/bin/bash", "-c"],
    )  # fmt: skip
    port = free_port()
    published.start(host, "node", published_ports=[f"{port}:3000"])
    eventually(lambda: page(port) == "node of 1000 in /home/node/app\n")
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0


PYTHON = b"""
import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"python of {os.getuid()} at {os.environ['HOME']}".encode()]
"""


def test_gunicorn(host: Deployment, published: Published) -> None:
    """An entry point in the form of a shell, and a healthcheck by the language itself."""
    check = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000', timeout=3)"
    published.image(
        "gunicorn", ["gunicorn", "dumb-init"], [folder("app"), entry("app/page.py", PYTHON)],
        {"app": (1001, "/home/app")},
        Env=[f"PATH={PATH}", "WORKERS=2", "PYTHONUNBUFFERED=1"], User="app:app", WorkingDir="/app",
        Entrypoint=["/bin/sh", "-c", "exec dumb-init gunicorn -w $WORKERS -b :8000 --pid "
        "/tmp/pid --worker-tmp-dir /dev/shm --access-logfile /dev/stdout page:app"],
        Healthcheck={"Test": ["CMD", "python3", "-c", check], "Interval": 500_000_000},
    )  # fmt: skip
    port = free_port()
    published.start(host, "gunicorn", published_ports=[f"{port}:8000"])
    healthy(host)
    assert page(port) == "python of 1001 at /home/app"
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0


FPM = b"""
[global]
error_log = /proc/self/fd/2
daemonize = no
[www]
user = www-data
group = www-data
listen = 9000
pm = static
pm.max_children = 2
access.log = /proc/self/fd/2
clear_env = no
catch_workers_output = yes
"""


def test_php_fpm(host: Deployment, published: Published) -> None:
    """Behind a web server, in one sandbox by supervisord."""
    supervisor = (
        b"[supervisord]\nnodaemon=true\nuser=root\nlogfile=/dev/null\nlogfile_maxbytes=0\n"
        b"[program:fpm]\ncommand=php-fpm8.2 -F\nstdout_logfile=/dev/fd/1\n"
        b"stdout_logfile_maxbytes=0\nstderr_logfile=/dev/fd/2\nstderr_logfile_maxbytes=0\n"
        b"[program:nginx]\ncommand=nginx -g 'daemon off;'\n"
    )
    published.image(
        "php", ["php8.2-fpm", "nginx-light", "supervisor"],
        [
            entry("etc/nginx/nginx.conf", NGINX_CONFIG),
            entry("etc/php/8.2/fpm/php-fpm.conf", FPM),
            entry("etc/supervisor/supervisord.conf", supervisor),
            entry("usr/share/nginx/html/index.php", b"<?php error_log('asked'); echo 6 * 7;"),
            link("var/log/nginx/error.log", "/dev/stderr"),
            folder("run/php"),
        ],
        {"www-data": (33, "/var/www")},
        Cmd=["supervisord", "-c", "/etc/supervisor/supervisord.conf"], WorkingDir="/var/www/html",
    )  # fmt: skip
    port = free_port()
    published.start(host, "php", published_ports=[f"{port}:80"])
    eventually(lambda: page(port, "/index.php") == "42")
    says(host, "asked")
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0


SSHD_CONFIG = b"""
PasswordAuthentication no
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def test_sshd(host: Deployment, published: Published, tmp_path: Path) -> None:
    """Makes its keys first, and lets a normal user in by key."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    start = '#!/bin/sh\nset -e\nssh-keygen -A\nmkdir -p /run/sshd\nexec "$@"\n'
    published.image(
        "sshd", ["openssh-server"],
        [
            script("start.sh", start), entry("etc/ssh/sshd_config", SSHD_CONFIG),
            *owned(1000, folder("home/ann", 0o700), folder("home/ann/.ssh", 0o700)),
            *owned(1000, entry("home/ann/.ssh/authorized_keys", Path(f"{key}.pub").read_bytes())),
        ],
        {"sshd": (100, "/run/sshd"), "ann": (1000, "/home/ann")},
        Entrypoint=["/start.sh"], Cmd=["/usr/sbin/sshd", "-D", "-e"], ExposedPorts={"22/tcp": {}},
    )  # fmt: skip
    port = free_port()
    published.start(host, "sshd", published_ports=[f"{port}:22"])
    says(host, "Server listening on 0.0.0.0 port 22")
    command = ["ssh", "-F", "none", "-i", str(key), "-p", str(port), "-o", "BatchMode=yes"]
    command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    done = subprocess.run(
        [*command, "-tt", "ann@127.0.0.1", "id -un; tty; echo $HOME"],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.split() == ["ann", "/dev/pts/0", "/home/ann"], done.stderr + logged(host)
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0


def owned(
    uid: int, *entries: tuple[tarfile.TarInfo, bytes]
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for member, content in entries:
        member.uid = member.gid = uid
        yield member, content


PAM = {
    f"common-{name}": f"{name.partition('-')[0]} required pam_permit.so\n".encode()
    for name in ("account", "auth", "password", "session", "session-noninteractive")
}


def test_cron(host: Deployment, published: Published) -> None:
    """A job of a user; @reboot, as cron looks at its tables once a minute."""
    published.image(
        "cron", ["cron"],
        [
            # Cron takes a table of 1970 for one that it has read.
            entry("etc/cron.d/jobs", b"@reboot ann id -un >out\n", mtime=1),
            *owned(1000, folder("home/ann")),
            *(entry(f"etc/pam.d/{name}", text) for name, text in PAM.items()),
        ],
        {"ann": (1000, "/home/ann")}, Cmd=["cron", "-f"],
    )  # fmt: skip
    published.start(host, "cron")
    eventually(lambda: shell(host, "cat /home/ann/out || true") == "ann\n")
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 143


RSYSLOG = b"""
module(load="imuxsock")
*.* action(type="omfile" file="/var/log/all")
*.* action(type="omfile" file="/dev/stdout")
"""


def test_rsyslog(host: Deployment, published: Published) -> None:
    published.image(
        "rsyslog", ["rsyslog"], [entry("etc/rsyslog.conf", RSYSLOG)],
        Cmd=["rsyslogd", "-n", "-iNONE"],
    )  # fmt: skip
    published.start(host, "rsyslog")
    eventually(lambda: shell(host, "test -S /dev/log && echo there || true") == "there\n")
    shell(host, "logger -t me 'a line'", "-u", "nobody")
    says(host, "me: a line")
    assert "me: a line" in shell(host, "cat /var/log/all")
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 0


RUN = """#!/bin/sh
exec 2>&1
exec chpst -u www-data:www-data sh -c 'echo "run by $(id -un)"; exec sleep 1000000'
"""


def test_runit(host: Deployment, published: Published) -> None:
    """A supervisor of services, each of which steps down with chpst; HUP ends all of them."""
    published.image(
        "runit", ["runit"], [script("etc/service/web/run", RUN)], {"www-data": (33, "/var/www")},
        Cmd=["runsvdir", "-P", "/etc/service"], StopSignal="SIGHUP",
    )  # fmt: skip
    published.start(host, "runit")
    says(host, "run by www-data")
    shell(host, "sv restart /etc/service/web")
    says(host, "run by www-data", times=2)
    sandlot(host, "stop", "web")
    assert host.info("web")["exit_code"] == 111
