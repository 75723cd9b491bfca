# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A task in a sandbox by the connection plugin, by turns with the same task on its host.

Both are reached over SSH, with one connection that stays, as root.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

import clock
import playing
from ours import Ours
from rows import Figures, Row, at_most, middle, ms, ratios, times
from setting import Bench, say

TASKS = 10
SSHD = Path(playing.COMMAND.parent.parent, "share/openssh")
RUN = Path("/run/sshd")
IMAGE = {"name": "this", "source": "host_overlay"}
WORKLOAD = ["/usr/bin/sleep", "1000000"]
KINDS: Dict[str, Dict[str, Any]] = {
    "ping": {"ansible.builtin.ping": {}},
    "copy": {"ansible.builtin.copy": {"src": "file", "dest": "/tmp/bench-{{ index }}"}},
}
# sshd looks up this user, which only its own mount namespace has.
_USER = f"sshd:x:64999:65534::{RUN}:/usr/sbin/nologin\n"


def measure(bench: Bench) -> Figures:
    with bench.ours() as ours, _serving(bench.directory) as host:
        box = {"name": "box", "image": "this", "command": WORKLOAD}
        images = [{"name": "busybox", "source": "busybox"}, IMAGE]
        ours.runner.run(ours.playbook, sandbox_instances=[box], sandbox_images=images)
        sockets = bench.directory / "sockets"
        environment = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets)}
        runner = playing.Runner(_inventory(bench.directory, ours, host), environment)
        say(f"{bench.sizes.turns} turns of {TASKS} tasks")
        try:
            return {kind: _series(bench, runner, kind) for kind in KINDS}
        finally:
            for path in sockets.glob("*"):
                end = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "host"]
                subprocess.run(end, check=False, capture_output=True)


def _series(bench: Bench, runner: playing.Runner, kind: str) -> Figures:
    (bench.directory / "file").write_bytes(b"x" * 100_000)
    series: Dict[str, List[float]] = {"host": [], "box@host": []}
    few, many = (
        {name: _play(bench.directory, kind, name, number) for name in series}
        for number in (1, 1 + TASKS)
    )
    for turn in range(-1, bench.sizes.turns):
        # The first of each pair changes; the first turn opens the connection.
        for name in sorted(series, reverse=bool(turn % 2)):
            less = runner.run(few[name]).seconds
            each = (runner.run(many[name]).seconds - less) / TASKS
            if turn >= 0:
                series[name].append(each)
    return {"host": series["host"], "inside": series["box@host"]}


def _play(directory: Path, kind: str, host: str, number: int) -> Path:
    tasks = [{**KINDS[kind], "vars": {"index": index}} for index in range(number)]
    path = directory / f"{kind}-{host}-{number}.json"
    path.write_text(json.dumps([{"hosts": host, "gather_facts": False, "tasks": tasks}]))
    return path


def _inventory(directory: Path, ours: Ours, host: Dict[str, Any]) -> Path:
    python = {"ansible_python_interpreter": "/usr/bin/python3"}
    hosts = {
        "host": {**host, **python, "sandbox_environment": ours.environment},
        "box@host": {"ansible_connection": "sandbox", **python},
    }
    path = directory / "connecting.json"
    path.write_text(json.dumps({"all": {"hosts": hosts}}))
    return path


@contextmanager
def _serving(directory: Path) -> Iterator[Dict[str, Any]]:
    """sshd on a free port of the loopback interface; the variables of a host behind it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for name in ("server", "client"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name]
        subprocess.run(words, cwd=directory, check=True)
    public = (directory / "server.pub").read_text()
    (directory / "known").write_text(f"[127.0.0.1]:{port} {public}")
    shutil.copy("/etc/passwd", directory / "passwd")
    with (directory / "passwd").open("a") as passwd:
        passwd.write(_USER)
    made = not RUN.exists()
    RUN.mkdir(mode=0o755, exist_ok=True)
    server = _started(directory, port)
    try:
        yield {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(directory / "client"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={directory}/known",
        }
    finally:
        server.kill()
        server.wait()
        if made:
            RUN.rmdir()


def _started(directory: Path, port: int) -> subprocess.Popen[str]:
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": directory / "server",
        "AuthorizedKeysFile": directory / "client.pub",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    sshd = [str(SSHD / "usr/sbin/sshd"), "-D", "-e", "-f", "/dev/null", *words]
    script = 'mount --bind "$1" /etc/passwd; shift; exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", str(directory / "passwd"), *sshd]
    libraries = {str(path.parent) for path in SSHD.glob("usr/lib/**/libw*.so.*")}
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    if not any("Server listening" in line for line in server.stderr):
        raise clock.Failed("sshd does not listen")
    return server


def rows(figures: Figures) -> list[Row]:
    found = []
    for kind in KINDS:
        inside, host = figures[kind]["inside"], figures[kind]["host"]
        what = f"one task {kind} in a sandbox: on its host, both over SSH"
        text = f"{times(ratios(inside, host))}: {ms(inside)}, {ms(host)}"
        if kind == "ping":
            found.append(at_most(what, [middle(inside) / middle(host)], 1.2, text))
        else:
            found.append(Row(what, text))
    return found
