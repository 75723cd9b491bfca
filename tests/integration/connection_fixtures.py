# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plays in sandboxes by the connection plugin; their host is reached locally, and over SSH.

def test_x(fleet):
    fleet.play({"hosts": "web@alpha", "tasks": [{"raw": "id"}]})
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ssh_hosts
from converge_fixtures import Deployment, deployed, sandbox, short_directory
from image_fixtures import BUSYBOX, prepare
from ssh_hosts import KEEPER, STRANGER, WARDEN, Server

TOP = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("SANDLOT_TEST_ANSIBLE", Path(sys.executable).parent))
# The machine's own Debian, with Python, git and what else ordinary modules need.
DEBIAN = {"name": "debian", "source": "host_overlay"}
IDLE = ["/usr/bin/sleep", "1000000"]
SANDBOXES = (
    sandbox("web"),
    sandbox("debian", image="debian", command=IDLE, security_profile="daemon"),
    sandbox("strict", image="debian", command=IDLE, user="www-data"),
)
Json = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """One task of a play on one host."""

    host: str
    task: str
    outcome: str
    result: Json

    @property
    def message(self) -> str:
        return str(self.result.get("msg", ""))

    @property
    def stdout(self) -> str:
        return str(self.result.get("stdout", "")).strip()


@dataclass
class Played:
    code: int
    output: str
    kept: list[Kept]

    @property
    def last(self) -> Kept:
        assert self.kept, self.output
        return self.kept[-1]


@dataclass
class Fleet:
    host: Deployment
    server: Server
    top: Path
    hosts: dict[str, Json] = field(default_factory=dict)

    def inventory(self, changes: Mapping[str, Json]) -> Json:
        names = {*self.hosts, *changes}
        whole = {name: {**self.hosts.get(name, {}), **changes.get(name, {})} for name in names}
        common = {"sandbox_environment": {"SANDLOT_ROOT": self.host.paths.root}}
        return {"all": {"hosts": whole, "vars": common}}

    def play(
        self,
        *plays: Json,
        hosts: Mapping[str, Json] | None = None,
        words: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        fails: bool = False,
    ) -> Played:
        """Plays with this inventory, where ``hosts`` add and change variables."""
        (self.top / "inventory.json").write_text(json.dumps(self.inventory(hosts or {})))
        whole = [{"gather_facts": False, **play} for play in plays]
        (self.top / "play.json").write_text(json.dumps(whole))
        results = self.top / "results.json"
        results.unlink(missing_ok=True)
        command = [str(BIN / "ansible-playbook"), "-i", "inventory.json", *words, "play.json"]
        with (self.top / "output").open("w+") as file:
            process = subprocess.Popen(
                command,
                cwd=self.top,
                env={**os.environ, **self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
            code = _waited(process)
            file.seek(0)
            output = file.read()
        assert (code != 0) == fails, f"{code}: {output}"
        kept = [Kept(**entry) for entry in json.loads(results.read_text())]
        return Played(code, output, kept)

    def vault(self, path: Path, secret: Path) -> None:
        """Encrypt a file of variables."""
        command = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(secret)]
        subprocess.run([*command, str(path)], check=True, capture_output=True)

    def close(self) -> None:
        """End the connections that ssh(1) keeps for a minute."""
        for socket in self.top.glob("cp/*"):
            command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "alpha"]
            subprocess.run(command, check=False, capture_output=True)

    def environment(self) -> dict[str, str]:
        return {
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "kept_by_host",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.top / "cp"),
            "KEPT_RESULTS": str(self.top / "results.json"),
        }


def _waited(process: subprocess.Popen[bytes]) -> int:
    """The exit code; a play that hangs is ended, and shows as -2."""
    try:
        return process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=20)


@contextlib.contextmanager
def fleet_of(*sandboxes: Json) -> Iterator[Fleet]:
    with deployed() as host, ssh_hosts.serving() as server, short_directory() as directory:
        prepare(host, BUSYBOX, DEBIAN)
        result = host.run(*sandboxes)
        assert not result.failed, result.failed
        ways = {
            "here": {"ansible_connection": "local"},
            "alpha": server.variables(WARDEN),
            "root": server.variables("root"),
            "guarded": server.variables(KEEPER),
            "closed": server.variables(STRANGER),
            "dead": server.variables("root", ansible_port=1),
        }
        inside = {
            f"{box['name']}@{way}": {"ansible_connection": "sandbox"}
            for box in sandboxes
            for way in ways
        }
        fleet = Fleet(host, server, Path(directory), {**ways, **inside})
        try:
            yield fleet
        finally:
            fleet.close()
