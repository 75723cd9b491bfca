# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The playbook that audits a fleet, its verdict and its report."""

from __future__ import annotations

import html.parser
import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

from converge_fixtures import Deployment, needs_root, sandbox
from plays import BIN, TOP
from sandboxes import until
from sandlot.kernel import processes

pytestmark = needs_root

# A name of a process has at most 15 bytes.
EVIL = ("<b>{{7*6}}", "<script>x\x1b")
FAILED, UNREACHABLE = 2, 4
VOID = {"meta", "link"}


class Page(html.parser.HTMLParser):
    """The text of a page whose elements are closed in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.external: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.external += [
            value or ""
            for name, value in attrs
            if name in ("src", "href") and not (value or "").startswith(("#", "data:,"))
        ]
        assert not [name for name, dummy in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


class Fleet:
    """One host under a moved root, and one that nobody answers for."""

    def __init__(self, host: Deployment, path: Path, *specs: dict[str, Any]) -> None:
        self.report = path / "audit.html"
        self.inventory = path / "inventory.json"
        self.root = host.paths.root
        networks = [{"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}]
        self.variables: dict[str, Any] = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "sandbox_networks": networks,
            "sandbox_instances": [*specs],
        }

    def audit(self, *words: str, **variables: Any) -> tuple[int, str, Page]:
        here = {
            "ansible_connection": "local",
            "sandbox_environment": {"SANDLOT_ROOT": self.root},
        }
        away = {"ansible_host": "127.0.0.1", "ansible_port": 9}
        shared = {**self.variables, **variables}
        hosts = {"sandbox_hosts": {"hosts": {"here": here, "away": away}, "vars": shared}}
        self.inventory.write_text(json.dumps(hosts))
        done = subprocess.run(
            [BIN / "ansible-playbook", "-i", self.inventory, TOP / "playbooks/audit_sandbox.yml",
             "-e", f"sandbox_audit_report={self.report}", *words],
            env={**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        page = Page(self.report.read_text())
        assert stat.S_IMODE(self.report.stat().st_mode) == 0o600
        assert page.external == [] and "script" not in page.tags
        self.report.unlink()
        return done.returncode, done.stdout + done.stderr, page


def test_a_fleet_in_order(host: Deployment, tmp_path: Path) -> None:
    boxes = [
        sandbox("web", memory="64m", capabilities=["NET_RAW"]),
        sandbox("off", state="stopped"),
    ]
    host.run(*boxes)
    fleet = Fleet(host, tmp_path, *boxes)
    code, output, page = fleet.audit("--limit", "here", "--check")
    assert code == 0, output
    assert "0 differences" in page.text and "Audit of 1 host 20" in page.text
    assert host.info("web")["addresses"][0] in page.text and "NET_RAW" in page.text
    assert "1 of 2 running" in page.text
    code, output, page = fleet.audit()
    assert code == UNREACHABLE, output
    assert "1 of 2 hosts looked at" in page.text and "away not reached" in page.text


def test_drift_of_inventory_and_kernel(host: Deployment, tmp_path: Path) -> None:
    host.run(sandbox("web", memory="64m"))
    pid = str(host.pid("web"))
    subprocess.run(["nsenter", "-t", pid, "-n", "ip", "addr", "add", "192.0.2.1/32", "dev", "eth0"],
                   check=True)  # fmt: skip
    # From outside, so that the name is in a difference.
    script = 'printf "$1" > /proc/self/comm; read -r line'
    intruders = [
        subprocess.Popen(["nsenter", "-t", pid, "-p", "-m", "sh", "-c", script, "sh", name],
                         stdin=subprocess.PIPE)
        for name in EVIL
    ]  # fmt: skip
    try:
        until(lambda: all(_named(each.pid) for each in intruders))
        fleet = Fleet(host, tmp_path, sandbox("web", memory="32m"), sandbox("more"))
        code, output, page = fleet.audit("--limit", "here")
    finally:
        for each in intruders:
            each.communicate()
    assert code == FAILED
    for text in ("more: create", "web: cgroup: memory", "(<b>{{7*6}}) entered from outside"):
        assert text in output and text in page.text, text
    assert "(<script>x\\x1b)" in page.text and "b" not in page.tags
    assert page.text.count("repair interfaces") == 1
    Path(host.paths.sandbox("web").record).write_text("{<script>")
    code, output, page = fleet.audit("--limit", "here")
    assert code == FAILED and "not valid JSON" in output
    assert "A deploy would fail" in page.text and "web broken" in page.text


def _named(pid: int) -> bool:
    return any(processes.name(child)[:1] == "<" for child in processes.children(pid))
