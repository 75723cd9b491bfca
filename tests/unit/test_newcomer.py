# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What somebody meets who clones the tree, runs make and reads what Ansible prints."""

from __future__ import annotations

import configparser
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
# nftables is installed disabled, the others are part of each Debian.
HARMLESS = {"nftables.service", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service"}


def make(directory: Path, *words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Without the rest of the tree, so that no rule gets further than its checks."""
    for path in (ROOT / "Makefile", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, directory)
        (directory / path.name).chmod(0o644)
    directory.chmod(0o555 if os.geteuid() else 0o755)
    try:
        return subprocess.run(
            ["make", *words],
            cwd=directory,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        directory.chmod(0o755)


@pytest.mark.parametrize("name", ["a b", "a'b", "a$b", "a;b", "a(b", "a=b"])
def test_a_path_that_scripts_would_have_to_quote_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = make(tmp_path / name, "deploy")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f'the path "{tmp_path}/{name}" has a space or another character' in line
    assert "clone sandlot into one of letters, digits and" in line


@pytest.mark.parametrize("name", ["größe", "a-b_c.d+e@f,g~"])
def test_a_path_of_other_characters_is_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = make(tmp_path / name, "help")
    assert (done.returncode, done.stderr) == (0, "") and "deploy " in done.stdout


@pytest.mark.parametrize("target", ["deploy", "test", "lint", "unit", "collection"])
def test_a_checkout_of_somebody_else_is_named(target: str) -> None:
    """Directories of pytest are closed to other users."""
    root = os.geteuid() == 0
    directory = Path("/var/tmp") / f"sandlot-newcomer-{os.getpid()}"
    directory.mkdir()
    try:
        done = make(directory, target, user=NOBODY if root else None)
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 2
    line = done.stderr.splitlines()[0]
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert line.startswith(f"{directory} belongs to {owner}: run make as {owner}, or clone sandlot")


def test_tests_install_no_service() -> None:
    """A package of Debian enables and starts what it has, on all addresses."""
    rows = re.findall(r"^(?:TEST|VM)_PACKAGES := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    packages = " ".join(rows).split()
    assert len(rows) == 2 and "skopeo" in packages
    command = ["dpkg-query", "--listfiles", *packages]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    units = [Path(name) for name in listed.splitlines() if "/systemd/system/" in name]
    enabled = {
        path.name for path in units if path.is_file() and "\n[Install]\n" in path.read_text()
    }
    assert enabled <= HARMLESS
    assert "/etc/init.d/" not in re.sub(r"^/etc/init\.d$", "", listed, flags=re.M)


def test_ansible_prints_what_matters() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "ansible.cfg")
    defaults = dict(parser["defaults"])
    assert defaults["interpreter_python"] == "auto_silent"
    assert defaults["display_skipped_hosts"] == "false"


@pytest.mark.parametrize("name", ["deploy_sandbox", "teardown_sandbox"])
def test_a_playbook_ends_with_what_to_do_next(name: str) -> None:
    (play,) = yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text())
    last = play["tasks"][-1]
    assert last["name"] == "Say what to do next" and last["run_once"]
    assert last["ansible.builtin.debug"]["msg"]


def test_the_inventory_of_the_readme_names_its_user() -> None:
    (inventory,) = re.findall(
        r"^```yaml\n(# inventory/hosts.yml\n.*?)^```$",
        (ROOT / "README.md").read_text(),
        re.M | re.S,
    )
    assert yaml.safe_load(inventory)["sandbox_hosts"]["vars"]["ansible_user"]
