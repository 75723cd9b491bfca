# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The tutorial, from its first command to its last, with two servers by SSH."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import hosts
import lan
import machine
import newcomers
import pytest
import roots
import ssh
import tutorial
from newcomers import Newcomer, Way
from test_first_hour import WARNINGS

SERVERS = {"alpha": "192.0.2.10", "beta": "192.0.2.11"}
METRICS = "var/lib/prometheus/node-exporter/sandlot.prom"
UPDATE = "ansible-playbook sandlot.sandlot.update_sandbox -e sandbox_update_label=app=notes"
TEARDOWN = "ansible-playbook sandlot.sandlot.teardown_sandbox"
# In one terminal, these words change what follows.
LASTING = ("cd ", ". ", "export ")
_VISITS = """\
cd site
until [ -e /tmp/enough ]; do
  curl --silent --fail --max-time 10 --cacert tls/ca.crt https://192.0.2.10/ || echo "no answer: $?"
done
"""


class Reader:
    def __init__(self, newcomer: Newcomer, servers: dict[str, machine.Machine]) -> None:
        self.newcomer = newcomer
        self.servers = servers
        self.lasting = ""
        self.shown = ""

    def does(self, step: tutorial.File | tutorial.Command | tutorial.Seen) -> None:
        if isinstance(step, tutorial.File):
            self._writes(step)
        elif isinstance(step, tutorial.Seen):
            missing = step.missing(self.shown)
            assert missing is None, f"no line {missing!r} in order in:\n{self.shown}"
            self.shown = ""
        elif step.line.startswith(LASTING):
            self.lasting += f"{step.line}\n"
        else:
            self._types(step)

    def _writes(self, file: tutorial.File) -> None:
        command = f"{self.lasting}cat > {file.path} <<'THE END'\n{file.text}THE END"
        assert self.newcomer.terminal.type(command).code == 0

    def _types(self, command: tutorial.Command) -> None:
        if command.line.startswith(TEARDOWN):
            _await_metrics(self.servers)
        visits = _visits if command.line == UPDATE else contextlib.nullcontext
        with visits(self.newcomer.host):
            done = self.newcomer.types(f"{self.lasting}{command.line}", fails=command.fails)
        assert WARNINGS.findall(done.text) == []
        self.shown += done.text


@contextlib.contextmanager
def _visits(host: machine.Machine) -> Iterator[None]:
    """Ask for the page, again and again, and get it each time."""
    enough = host.root / "tmp/enough"
    asking = host.enter("sh", "-c", f"cd /home/{roots.USER}\n{_VISITS}")
    asker = subprocess.Popen(asking, stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        enough.touch()
        pages, dummy = asker.communicate(timeout=60)
        enough.unlink()
    assert pages.count("notes, version") > 10
    assert "no answer" not in pages


def _await_metrics(servers: dict[str, machine.Machine]) -> None:
    """Cron has written them a minute after the file was there."""
    deadline = time.monotonic() + 90
    for server in servers.values():
        file = server.root / METRICS
        while not (file.exists() and "sandlot_launcher_up 1" in file.read_text()):
            assert time.monotonic() < deadline, "cron has not written metrics"
            time.sleep(0.5)


def _server(
    stack: contextlib.ExitStack, network: lan.Lan, name: str, address: str, key: str
) -> machine.Machine:
    archive = roots.remote(hosts.SUITE, *hosts.PACKAGES)
    server = stack.enter_context(machine.running(network, archive, name, address))
    ssh.admit(server.root, key)
    ssh.serve(stack, server)
    # It has no service manager.
    server.run("cron")
    return server


@pytest.fixture
def reader(network: lan.Lan) -> Iterator[Reader]:
    archive = roots.local(hosts.SUITE, tutorial.packages())
    with contextlib.ExitStack() as stack:
        newcomer = newcomers.arrived(stack, network, Way("tutorial"), archive, "192.0.2.99")
        newcomer.types("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        directory = Path(newcomer.host.root, newcomer.home[1:], ".ssh")
        key = (directory / "id_ed25519.pub").read_text()
        servers = {
            name: _server(stack, network, name, address, key) for name, address in SERVERS.items()
        }
        known = [ssh.known(server.root, SERVERS[name]) for name, server in servers.items()]
        (directory / "known_hosts").write_text("".join(known))
        (directory / "known_hosts").chmod(0o644)
        yield Reader(newcomer, servers)


def test_tutorial(reader: Reader) -> None:
    for step in tutorial.steps():
        reader.does(step)
    for server in reader.servers.values():
        find = ("find", "/", "/run", "-xdev", "-path", "/proc", "-prune", "-o", "-name")
        assert server.run(*find, "*sandlot*", "-print").split() == []
