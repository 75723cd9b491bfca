# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What fails on the way into a sandbox is told apart, and names the remedy."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from connection_fixtures import SANDBOXES, Fleet, fleet_of
from converge_fixtures import eventually, needs_root, sandbox

pytestmark = [needs_root, pytest.mark.slow]

INSIDE = {"ansible_connection": "sandbox"}
# Host of the inventory, its variables, outcome, and what its message holds.
FAILURES = (
    ("web@dead", {}, "unreachable", "host dead can't be reached: Failed to connect to the host"),
    ("web@closed", {}, "failed", "host closed has run nothing: Missing sudo password"),
    ("web@bare", {}, "unreachable", "host bare has no sandlot (/var/empty/usr/local/bin/sandlot"),
    ("web@past", {}, "unreachable", "host past has an older sandlot, which can't run tasks"),
    ("web@bent", {}, "failed", "ansible_connection 'carrier' of host bent is no connection plugin"),
    ("web@alpa", {}, "failed", "'alpa' is no host of the inventory; add it there"),
    ("a", {"ansible_sandbox_host": "web@here"}, "failed", "host web@here is itself a sandbox"),
    ("b", {}, "failed", "set ansible_sandbox_host, or name it NAME@HOST"),
    ("c@here", {"ansible_sandbox_name": "--help"}, "failed", "'--help' can't name a sandbox"),
    ("none@here", {}, "unreachable", "no sandbox is named 'none'; deploy it"),
    ("off@alpha", {}, "unreachable", "off is not running; start it: sandlot start off"),
    ("web@here", {"ansible_user": "bob"}, "unreachable", "'bob' is not in the sandbox's /etc/p"),
    ("strict@here", {"ansible_user": "root"}, "unreachable", "is not the user of this sandbox"),
    ("web@alpha", {"ansible_shell_executable": "/bin/no"}, "unreachable", "/bin/no: command not"),
    ("web@root", {"ansible_sandbox_max_output": "1"}, "failed", "ansible_sandbox_max_output"),
    ("off@here", {"ansible_sandbox_max_file": "much"}, "failed", "'much' is no size"),
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    off = sandbox("off", state="stopped")
    frail = sandbox("frail", restart_policy="no")
    with fleet_of(*SANDBOXES, off, frail) as made:
        yield made


# Without the option --errors-as, as versions before the connection plugin.
OLDER = """\
#!/usr/bin/env python3
import argparse
parser = argparse.ArgumentParser(prog="sandlot")
parser.add_argument("verb")
parser.parse_args()
"""


def test_failures(fleet: Fleet, tmp_path: Path) -> None:
    older = tmp_path / "usr/local/bin/sandlot"
    older.parent.mkdir(parents=True)
    older.write_text(OLDER)
    older.chmod(0o755)
    bare = {"ansible_connection": "local", "sandbox_environment": {"SANDLOT_ROOT": "/var/empty"}}
    hosts = {"bare": bare, "bent": {"ansible_connection": "carrier"}}
    past = {"SANDLOT_ROOT": str(tmp_path)}
    hosts["past"] = {"ansible_connection": "local", "sandbox_environment": past}
    hosts |= {name: {**INSIDE, **variables} for name, variables, *_ in FAILURES}
    play = {"hosts": ",".join(name for name, *_ in FAILURES), "tasks": [{"raw": "id"}]}
    played = fleet.play(play, hosts=hosts, fails=True)
    seen = {one.host: one for one in played.kept}
    for name, _, outcome, message in FAILURES:
        assert message in seen[name].message, (name, seen[name])
        assert seen[name].outcome == outcome, seen[name]


def test_a_sandbox_that_stops_between_two_tasks(fleet: Fleet) -> None:
    paths = fleet.host.paths
    stop, start = (
        {"raw": f"SANDLOT_ROOT={paths.root} {paths.command} {verb} frail", "delegate_to": "here"}
        for verb in ("stop", "start")
    )
    tasks = [{"raw": "id"}, stop, {"raw": "id"}]
    played = fleet.play({"hosts": "frail@alpha", "tasks": tasks}, fails=True)
    assert [one.outcome for one in played.kept] == ["ok", "ok", "unreachable"], played.output
    assert "frail is not running" in played.last.message
    fleet.play({"hosts": "frail@alpha", "tasks": [start, {"raw": "id"}]})


def test_a_sandbox_that_ends_while_a_task_runs(fleet: Fleet) -> None:
    pid = fleet.host.pid("frail")

    def kill() -> None:
        eventually(lambda: "12345" in _commands(pid))
        fleet.host.kill("frail")

    killer = threading.Thread(target=kill)
    killer.start()
    played = fleet.play({"hosts": "frail@alpha", "tasks": [{"raw": "sleep 12345"}]}, fails=True)
    killer.join()
    assert played.last.outcome == "unreachable"
    assert "frail: the sandbox ended while the command ran" in played.last.message
    start = [fleet.host.paths.command, "start", "frail"]
    subprocess.run(start, env={"SANDLOT_ROOT": fleet.host.paths.root}, check=True)


def _commands(pid: int) -> str:
    """Words of the children of init."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return " ".join(_words(child) for child in children)


def _words(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""


def test_exit_code_255_is_the_command_s(fleet: Fleet) -> None:
    tasks = [{"raw": "exit 255", "register": "ended", "failed_when": "ended.rc != 255"}]
    fleet.play({"hosts": "web@alpha,web@here", "tasks": tasks})
