# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Twelve Compose files as people publish them, converted, deployed by one run, and answering."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose_images import FILES, Images
from converge_fixtures import (
    Deployment,
    assert_gone,
    eventually,
    needs_root,
    short_directory,
    untouched_host,
)
from plays import BIN, TOP
from published_images import logged, sandlot, shell

pytestmark = needs_root
STACKS = (
    *("guestbook", "gateway", "queue", "monitoring", "wiki", "forum", "ci", "mail", "site"),
    *("cache", "backup", "devstack"),
)
# What their makers tell users to write before the first start.
SECRETS = {"monitoring/secrets/grafana_admin": "Gr4fana!", "backup/secrets/db_password": "b4ck up"}
WARNINGS = [
    ("queue/compose.yaml:49", "services.worker.deploy"),
    ("cache/compose.yml:49", "services.redis-replica.scale"),
    ("backup/compose.yml:33", "services.backup.depends_on.database.restart"),
]
KINDS = ("images", "networks", "volumes", "instances")


class Stacks(Deployment):
    """A host, and a controller with a copy of the Compose files."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.warnings: list[tuple[str, str]] = []
        self.files = Path(root, "compose")
        shutil.copytree(FILES, self.files, ignore=shutil.ignore_patterns("apps", "__pycache__"))
        for name, value in SECRETS.items():
            path = self.files / name
            path.parent.mkdir()
            path.write_text(value)
        self.inventory = Path(root, "inventory")
        (self.inventory / "group_vars").mkdir(parents=True)
        images = Images(Path(root, "layout"))
        for name, content in (
            ("hosts", _hosts()),
            ("group_vars/sandbox_hosts", self._vars(images)),
        ):
            (self.inventory / f"{name}.yml").write_text(json.dumps(content))

    def _vars(self, images: Images) -> dict[str, Any]:
        lookup = "{{{{ lookup('compose', compose_files ~ '/{}', images=compose_images) }}}}"
        return {
            "sandbox_environment": {"SANDLOT_ROOT": self.paths.root},
            "sandbox_host_packages": False,
            "compose_files": str(self.files),
            "compose_images": images.options,
            **{name: lookup.format(name) for name in STACKS},
            "stacks": f"{{{{ [{', '.join(STACKS)}] }}}}",
            **{
                f"sandbox_{kind}": f"{{{{ stacks | map(attribute='sandbox_{kind}') | flatten"
                f" | unique }}}}"
                for kind in KINDS
            },
        }

    def play(self, playbook: str, **variables: Any) -> list[dict[str, Any]]:
        """The results of its tasks."""
        kept = Path(self.paths.root, "results.json")
        command = [str(BIN / "ansible-playbook"), "-i", str(self.inventory), str(TOP / playbook)]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "kept_results",
            "KEPT_RESULTS": str(kept),
        }
        command += ["-e", json.dumps(variables)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        self.warnings = re.findall(r"WARNING.*?/compose/(.*?:\d+): (.*?): ", done.stderr)
        results: list[dict[str, Any]] = json.loads(kept.read_text())
        return results


def _hosts() -> dict[str, Any]:
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return {"sandbox_hosts": {"hosts": {"localhost": host}}}


@pytest.fixture(scope="module")
def stacks() -> Iterator[Stacks]:
    with short_directory() as root:
        with untouched_host(root):
            found = Stacks(root)
            try:
                found.play("deploy-sandbox.yml")
                yield found
            finally:
                volumes = [path.name for path in Path(found.paths.volumes).glob("*")]
                found.play("playbooks/teardown_sandbox.yml", sandbox_remove_volumes=volumes)
        assert_gone(found.paths)


def ask(port: int, path: str = "/", body: str | None = None, method: str | None = None) -> str:
    data = None if body is None else body.encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read().decode()}"
    except OSError as error:
        return str(error)


def says(text: str, port: int, path: str = "/") -> None:
    """Until it does: what has no healthcheck may still be starting."""
    answers: list[str] = []

    def look() -> bool:
        answers.append(ask(port, path))
        return answers[-1] == text

    try:
        eventually(look)
    except AssertionError as error:
        raise AssertionError(answers[-1]) from error


def test_guestbook(stacks: Stacks) -> None:
    """A row goes through the proxy into the database, and is read through the cache."""
    says("cache: ", 8081, "/entries")
    assert ask(8081, "/entries", "first") == "written"
    assert ask(8081, "/entries", "second") == "written"
    assert ask(8081, "/entries") == "database: first, second"
    assert ask(8081, "/entries") == "cache: first, second"
    assert shell(stacks, "redis-cli get entries", name="cache") == "first, second\n"
    query = "psql -qAt -h /var/run/postgresql -U guestbook -c 'SELECT count(*) FROM entries'"
    refused = "! PGPASSWORD=wrong psql -h 127.0.0.1 -U guestbook -c '' 2>&1"
    assert "password authentication failed" in shell(stacks, refused, name="db")
    assert shell(stacks, f'PGPASSWORD="$POSTGRES_PASSWORD" {query}', name="db") == "2\n"
    assert stacks.info("migrate")["state"] == "exited"
    assert stacks.info("web")["health"] == "healthy"


def test_gateway(stacks: Stacks) -> None:
    """Both backends answer through the proxy, and through nothing else."""
    says("blue /blue/x", 8082, "/blue/x")
    says("green /green/x", 8082, "/green/x")
    assert {ask(8082) for dummy in range(4)} == {"blue /", "green /"}
    assert stacks.info("blue")["addresses"][0].startswith("172.28.5.")
    outside = "! wget -q -O - http://198.51.100.1/ 2>&1"
    assert "unreachable" in shell(stacks, outside, name="blue")
    spec = stacks.info("blue")["spec"]
    assert (spec["cpus"], spec["memory"], spec["pids_limit"]) == (0.5, 128 << 20, 64)
    assert shell(stacks, "wget -q -O - http://edge-gateway/blue/", name="blue") == "blue /blue/"
    assert shell(stacks, "cat /etc/nginx/conf.d/default.conf", name="gateway").startswith(
        "upstream"
    )


def test_queue(stacks: Stacks) -> None:
    """Two workers share one queue, another has its own."""
    workers = set()

    def done(number: str) -> bool:
        text, _, worker = ask(8083, f"/{number}").partition(" by ")
        workers.add(worker)
        return text == "boj a"

    eventually(lambda: ask(8083, "/0") == "not done")
    numbers = [ask(8083, "/default", "a job") for _ in range(3)]
    eventually(lambda: all(map(done, numbers)))
    assert workers - {""} <= {"worker", "worker-2"}
    numbers = [ask(8083, "/mail", "a job")]
    eventually(lambda: all(map(done, numbers)))
    assert "mailer" in workers
    assert stacks.info("worker-2")["state"] == "running"
    limits = "grep 'open files' /proc/self/limits"
    assert shell(stacks, limits, name="broker").split()[3:5] == ["4096", "8192"]


def test_monitoring(stacks: Stacks) -> None:
    """The dashboard shows what the collector has from the exporter."""
    board = "/d/node?password="
    assert ask(3000, f"{board}wrong") == "401: wrong password"
    password = SECRETS["monitoring/secrets/grafana_admin"]
    eventually(lambda: ask(3000, board + password).startswith("node_load1 is "))
    load = shell(stacks, "cat /proc/loadavg", name="node-exporter").split()[0]
    assert float(ask(3000, board + password).split()[-1]) == pytest.approx(float(load), abs=9)
    eventually(lambda: "node_load1" in shell(stacks, "cat /prometheus/samples", name="prometheus"))
    assert shell(stacks, "stat -c %u /var/lib/grafana/grafana.db", name="grafana") == "472\n"


def test_wiki(stacks: Stacks) -> None:
    """A page outlives the sandbox's restart."""
    says("404: no such page", 8085, "/home")
    assert ask(8085, "/home", "hello", "PUT") == "saved"
    sandlot(stacks, "restart", "wiki")
    says('The "wiki": hello', 8085, "/home")
    shell(stacks, "touch /cache/x /tmp/x; ! touch /x 2>/dev/null", name="wiki")
    size = "import os; at = os.statvfs('/dev/shm'); print(at.f_blocks * at.f_frsize)"
    assert shell(stacks, f'python3 -c "{size}"', name="wiki") == f"{32 << 20}\n"


def test_forum(stacks: Stacks) -> None:
    """A topic is in the database, and a worker has counted its words."""
    eventually(lambda: ask(8086, "/topics/0") == "404: no such topic")
    number = ask(8086, "/topics", "three short words")
    says("Talk # 3: three short words (3 words)", 8086, f"/topics/{number}")
    hosts = shell(stacks, "cat /etc/hosts", name="forum")
    assert "192.0.2.25" in hosts and "forum_cache" in hosts
    assert shell(stacks, "cat /proc/sys/net/core/somaxconn", name="forum") == "1024\n"


def test_ci(stacks: Stacks) -> None:
    """A pipeline is run by the agent, in its own limits."""
    eventually(lambda: ask(8087, "/next") == "401: who are you?")
    number = ask(8087, "/runs", "echo built; ulimit -n; ulimit -c")
    says("success: built\n2048\n0\n", 8087, f"/runs/{number}")
    failing = ask(8087, "/runs", "echo no; exit 1")
    says("failure: no\n", 8087, f"/runs/{failing}")
    assert stacks.info("ci-agent")["spec"]["memory"] == 256 << 20


def test_mail(stacks: Stacks) -> None:
    """An order of the web shop is a mail that the catcher shows, at both ports of a range."""
    eventually(lambda: ask(8088, "/", "a book") == "ordered")
    says("Subject: your order\n\nYou ordered a book.", 8025, "/api/v1/messages")
    says("ready", 8026)
    with socket.create_connection(("127.0.0.1", 1025), timeout=10) as smtp:
        assert smtp.recv(100).startswith(b"220 mailpit")


def test_site(stacks: Stacks) -> None:
    """The job is done before the web server starts."""
    says("<h1>Notes</h1>\n<p>The first page.</p>\n", 8089)
    assert ask(8089, "/second.html") == "<h1>Notes</h1>\n<p>The second page.</p>\n"
    assert "built second" in logged(stacks, "builder")
    assert stacks.info("builder")["state"] == "exited"
    assert "Read-only" in shell(stacks, "! touch /usr/share/nginx/html/x 2>&1", name="site")


def test_cache(stacks: Stacks) -> None:
    """What the primary is told, both replicas know; nobody writes to them."""
    client = 'redis-cli --no-auth-warning -a "$REDIS_PASSWORD"'
    assert shell(stacks, f"{client} set key value", name="redis-primary") == "OK\n"
    replicas = ("redis-replica", "redis-replica-2")
    for name in replicas:
        shell(stacks, f"until {client} get key | grep -x value; do :; done", name=name)
        assert "READONLY" in shell(stacks, f"{client} set key other 2>&1 || true", name=name)
    policy = shell(stacks, f"{client} config get maxmemory-policy", name="redis-replica-2")
    assert policy.split() == ["maxmemory-policy", "allkeys-lru"]
    with socket.create_connection(("127.0.0.1", 6390), timeout=10) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")


def test_backup(stacks: Stacks) -> None:
    """The job has the password by a secret of its own, and the rows are in the backup."""
    eventually(lambda: "backup done" in logged(stacks, "backup"))
    dump = shell(
        stacks, "cat /backups/app-*.sql; stat -c '%a %u' /run/backup/password", name="backup"
    )
    assert "Ada\nGrace\n" in dump and dump.endswith("400 999\n")
    assert "PASSWORD" not in shell(stacks, "env", name="backup")
    secret = SECRETS["backup/secrets/db_password"]
    assert shell(stacks, "cat /run/secrets/db_password", name="database") == secret
    assert secret not in json.dumps([stacks.info("database"), stacks.info("backup")])


def test_devstack(stacks: Stacks) -> None:
    """The services of two profiles, one of them a job, and parts of another file."""
    says("team: apple, pear", 8090, "/api/")
    says("debug /debug/", 8090, "/debug/")
    assert stacks.info("seed")["state"] == "exited"
    assert stacks.info("backend")["labels"]["team"] == "web"
    assert shell(stacks, "echo $PYTHONUNBUFFERED", name="backend") == "1\n"


def test_a_second_run_changes_nothing(stacks: Stacks) -> None:
    before = {name: stacks.pid(name) for name in ("db", "web", "gateway", "backup", "backend")}
    results = stacks.play("deploy-sandbox.yml")
    assert not any(result.get("changed") for result in results)
    assert stacks.warnings == WARNINGS
    assert before == {name: stacks.pid(name) for name in before}
