# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The README's commands, typed word for word, in its order."""

from __future__ import annotations

import re

import pytest
import readme
from newcomers import Newcomer
from terminal import Done

# Whoever changes a command of the README says here what it shows; None is not typed.
SHOWN: dict[str, dict[str, str | None]] = {
    "Two commands": {
        # The roots are made with these packages.
        f"sudo apt install {' '.join(readme.packages())}": None,
        "make deploy": r"localhost +: ok=\d+ +changed=[1-9]\d* +unreachable=0 +failed=0",
        # What CI runs.
        "make test": None,
        "curl http://127.0.0.1:8080/": "<h1>Hello from web</h1>",
        "sudo sandlot list": r"(?m)^web +running\b",
        "sudo sandlot exec -i -t shell -- sh": r"shell\n0\n",
    },
    "When it fails": {
        "sudo sandlot doctor": "",
        "sudo sandlot list": r"(?m)^shell +running\b",
        "sudo sandlot inspect web": r"127\.0\.0\.1|8080",
        "sudo sandlot logs web --tail 50": "",
        "sudo sandlot stats --no-stream": r"(?m)^web ",
        "sudo sandlot cp web:/etc/hosts -": r"(?m)^127\.0\.0\.1\b",
        "sudo sandlot explain web": "unshare",
        # It takes a package that the README has nobody install before.
        "sudo sandlot trace web": None,
        # The smallest Debian has no man: see tests/integration/test_cli_shells.py.
        "man sandlot": None,
        # With the inventory that the README shows: see test_fleet.
        "ansible-playbook -i inventory/hosts.yml deploy-sandbox.yml --check --diff": None,
    },
}
ANSWERS = {"sudo sandlot exec -i -t shell -- sh": ((r"# ", "hostname; id -u; exit\n"),)}
# A user who does what the README says has done nothing that calls for one.
WARNINGS = re.compile(r".*(?:\[(?:DEPRECATION )?WARNING\]|setlocale|Setting locale failed).*")
# PID 1 and the commands of this test.
OWN = {"cat", "sh", "sleep"}


def types(newcomer: Newcomer, command: str, shown: str) -> Done:
    done = newcomer.types(command, ANSWERS.get(command, ()))
    assert re.search(shown, done.text), f"{command} does not show {shown}"
    assert WARNINGS.findall(done.text) == []
    return done


@pytest.mark.parametrize("heading", SHOWN)
def test_the_readme_says_what_is_typed_here(heading: str) -> None:
    assert readme.commands(heading) == list(SHOWN[heading])


def test_commands(newcomer: Newcomer) -> None:
    for commands in SHOWN.values():
        for command, shown in commands.items():
            if shown is not None:
                types(newcomer, command, shown)


def test_the_second_deploy_changes_nothing(newcomer: Newcomer) -> None:
    types(newcomer, "make deploy", r"localhost +: ok=\d+ +changed=0 +unreachable=0 +failed=0")


def test_teardown_leaves_nothing(newcomer: Newcomer) -> None:
    types(newcomer, "make teardown", r"unreachable=0 +failed=0")
    host = newcomer.host
    find = "find / /run /sys/fs/cgroup -path /home -prune -o -path /proc -prune -o -name"
    assert host.run("sh", "-c", f"{find} '*sandlot*' -print") == ""
    assert host.run("ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert "sandlot" not in host.run("nft", "list", "ruleset") + host.run("cat", "/etc/subuid")
    mounts = host.run("cat", "/proc/self/mountinfo").splitlines()
    assert [line for line in mounts if "sandlot" in line.split()[4]] == []
    left = set(host.run("sh", "-c", "cat /proc/[0-9]*/comm").split())
    assert left <= OWN


@pytest.mark.suites("trixie", "sid")
def test_unit_tests(newcomer: Newcomer) -> None:
    """With Python 3.13 and 3.14; Python 3.11 is that of make test and of .ci/user."""
    types(newcomer, "make unit", r"\b[1-9]\d{3,} passed\b")
