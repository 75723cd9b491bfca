# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A database whose password comes as a secret out of Ansible's vault, deployed by the playbook."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from converge_fixtures import Deployment
from database_servers import POSTGRESQL
from plays import BIN, TOP, run_here
from published_images import environment, sandlot
from searching import Marker

NAME = "ledgers"
_PASSPHRASE = "passphrase"


def documented(**variables: str) -> dict[str, Any]:
    """The sandbox of docs/configuration.md, with a value that everybody may see.

    With ``variables``, it is as Ansible would hand it over.
    """
    text = (TOP / "docs/configuration.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml fragment\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    listed = [each for block in blocks for each in yaml.safe_load(block)["sandbox_instances"]]
    found: dict[str, Any] = next(each for each in listed if each["name"] == NAME)
    found["env"]["SHOWN"] = "{{ shown }}"
    found["labels"] = {"shown": "{{ shown }}"}
    found["healthcheck"] = POSTGRESQL.options["healthcheck"]
    text = json.dumps(found)
    for name, value in variables.items():
        text = text.replace(f"{{{{ {name} }}}}", value)
    return dict(json.loads(text))


@dataclasses.dataclass(frozen=True)
class Controller:
    """What a user has: an inventory with a file of the vault, and the log of Ansible."""

    host: Deployment
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "ansible.log"

    def deploy(self, image: dict[str, Any], **encrypted: str) -> str:
        """The whole output of a run of the playbook that shows all it can."""
        self.directory.mkdir(exist_ok=True)
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "sandbox_environment": {"SANDLOT_ROOT": self.host.paths.root},
            "sandbox_host_packages": False,
            "sandbox_images": [image],
            "sandbox_networks": [{"name": "default", "ipv4_subnet": f"{self.host.prefix}.0.0/22"}],
            "sandbox_instances": [documented()],
        }
        inventory = {"sandbox_hosts": {"hosts": {"localhost": variables}}}
        files = {
            "hosts.json": json.dumps(inventory),
            "vault.yml": "".join(_encrypted(name, text) for name, text in encrypted.items()),
            "passphrase": _PASSPHRASE,
        }
        for name, text in files.items():
            (self.directory / name).write_text(text)
        command = [
            *(str(BIN / "ansible-playbook"), "-vvv", "--diff"),
            *("-i", f"{self.directory}/hosts.json", "-e", f"@{self.directory}/vault.yml"),
            *("--vault-password-file", f"{self.directory}/passphrase"),
            str(TOP / "deploy-sandbox.yml"),
        ]
        settings = {
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_LOG_PATH": str(self.log),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "local"),
            "ANSIBLE_REMOTE_TEMP": str(self.directory / "remote"),
        }
        return run_here(command, settings)


def _encrypted(name: str, text: str) -> str:
    vault = VaultLib([("default", VaultSecret(_PASSPHRASE.encode()))])
    lines = vault.encrypt(text).decode().splitlines()
    return f"{name}: !vault |\n" + "".join(f"  {line}\n" for line in lines)


class Client:
    """psql inside, over TCP, with a password that comes by its input as all else."""

    def __init__(self, host: Deployment, password: str) -> None:
        connect = "read -r PGPASSWORD; export PGPASSWORD; exec psql -h 127.0.0.1 -U postgres -qAtX"
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [host.paths.command, "exec", "-i", NAME, "--", "sh", "-c", connect],
            env=environment(host), text=True, stdin=pipe, stdout=pipe, stderr=pipe,
        )  # fmt: skip
        assert self._process.stdin
        self._process.stdin.write(f"{password}\n")

    def asks(self, query: str) -> str:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{query};\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def end(self, query: str = "") -> tuple[int, str]:
        """Its exit code and complaints."""
        _, complaints = self._process.communicate(f"{query};\n", timeout=60)
        return self._process.returncode, complaints


def connects(host: Deployment, password: Marker) -> bool:
    code, complaints = Client(host, password.text).end("SELECT 1")
    assert code == 0 or "password authentication failed" in complaints, complaints
    return code == 0


def asked(host: Deployment, archive: Path) -> list[str]:
    """What the command prints; the archive is of a snapshot with the volume."""
    sandlot(host, "snapshots", "create", NAME, "kept")
    with open(archive, "wb") as file:
        words = [host.paths.command, "snapshots", "export", NAME, "kept"]
        subprocess.run(words, env=environment(host), stdout=file, check=True)
    verbs = (["inspect", NAME], ["explain", NAME], ["list"], ["doctor"], ["top"], ["snapshots"])
    printed = [_printed(host, *words, "--format", "json") for words in verbs]
    return [*printed, sandlot(host, "logs", NAME)]


def _printed(host: Deployment, *words: str) -> str:
    """The exit code of `sandlot doctor` tells of findings."""
    command = [host.paths.command, *words]
    done = subprocess.run(command, env=environment(host), capture_output=True, text=True)
    assert done.stdout and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr
