# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ansible's own tests of modules and connections, through the connection plugin.

They come with the source of the ansible-core that is installed. `make targets` runs all of LONG.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import isolation
import pytest
from connection_fixtures import BIN, DEBIAN, IDLE, TOP, Fleet, fleet_of
from converge_fixtures import needs_root, sandbox

pytestmark = [needs_root, pytest.mark.slow]

QUICK = ("raw", "slurp", "become")
LONG = (
    *("shell", "remote_tmp", "wait_for_connection", "connection", "async", "fetch", "copy"),
    "unarchive",
)
TARGETS = QUICK + (LONG if os.environ.get("SANDLOT_TARGETS") else ())
# A step that is one of SSH, or of sudo inside; and why it is another one here.
STEPS = {
    # A task with become fetches by the connection, which has other words for it than slurp.
    "fetch/roles/fetch_tests/tasks/failures.yml": (
        ("search('File is not readable')", "search('File is not readable|Permission denied')"),
        # It is its become_user from its start, whoever logs in otherwise.
        ("unreachable_fetch is unreachable", "unreachable_fetch is unreachable or"
         " unreachable_fetch.dest is defined"),
    ),
    # No SSH server inside knows keys.
    "fetch/setup_unreadable_test.yml": (('src: "~root/.ssh/authorized_keys"', 'content: ""'),),
    # Variables of the command line are those of hosts, too.
    "fetch/runme.sh": (
        ("-e ansible_user=fetcher -e ansible_become=no", "-e ansible_sandbox_user=fetcher"),
    ),
    "copy/tasks/main.yml": (("src: $HOME/.ssh/authorized_keys", "src: /etc/hostname"),),
    # The image has the packages. Three tests remove some, install one that only Ubuntu has, or ask
    # a server of Ansible.
    "unarchive/tasks/prepare_tests.yml": (("  when: ansible_pkg_mgr in", "  when: false and"),),
    "unarchive/tasks/main.yml": (
        ("- import_tasks: test_missing_binaries.yml\n", ""),
        ("- import_tasks: test_download.yml\n", ""),
        ("- import_tasks: test_different_language_var.yml\n", ""),
    ),
}  # fmt: skip
# Its script has tests of the controller alone, which ask that server, too.
ROLES = {"unarchive"}
VARIABLES = {"ansible_user": "root", "ansible_python_interpreter": "/usr/bin/python3"}


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "sandlot/ansible-core")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tests, of a copy of the source."""
    version = importlib.metadata.version("ansible-core")
    archive = cache() / f"ansible_core-{version}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        only = ["--no-binary", "ansible-core", f"ansible-core=={version}"]
        with isolation.outside():
            subprocess.run([*command, *only, "--dest", str(cache())], check=True)
    place = tmp_path_factory.mktemp("source")
    with tarfile.open(archive) as source:
        source.extractall(place, filter="data")
    found = place / f"ansible_core-{version}/test/integration/targets"
    for name, changes in STEPS.items():
        text = (found / name).read_text()
        for old, new in changes:
            assert old in text, f"{name} has no {old!r} any more"
            text = text.replace(old, new)
        (found / name).write_text(text)
    return found


@pytest.fixture(scope="module")
def fleet(targets: Path) -> Iterator[Fleet]:
    box = sandbox("target", image=DEBIAN["name"], command=IDLE, security_profile="daemon")
    with fleet_of(box) as made:
        yield made


@pytest.mark.parametrize("name", TARGETS)
def test_target(fleet: Fleet, targets: Path, name: str) -> None:
    inside = {"ansible_connection": "sandbox", "ansible_sandbox_name": "target", **VARIABLES}
    inside["ansible_sandbox_host"] = "alpha"
    out = fleet.top / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "empty.cfg").touch()
    own = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = fleet.inventory({"localhost": own})
    inventory["all"]["vars"]["output_dir"] = str(out)
    del inventory["all"]["hosts"]["target@alpha"]
    kinds = (
        {"pipelined": {}, "plain": {"ansible_pipelining": False}} if name == "connection" else {}
    )
    inventory["all"]["children"] = {
        "testgroup": {"hosts": {"testhost": inside}},
        "boxes": {"hosts": {kind: {**inside, **more} for kind, more in kinds.items()}},
    }
    (targets.parent / "inventory").write_text(json.dumps(inventory))
    done = subprocess.run(
        _command(targets, name),
        cwd=targets / name,
        env={**os.environ, **fleet.environment(), **_environment(targets, out)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert len(re.findall(r"(?m)^(?:ok|changed): \[(?:testhost|plain|pipelined)", output)) >= 5


def _command(targets: Path, name: str) -> list[str]:
    inventory = str(targets.parent / "inventory")
    if name == "connection":
        places = ("local_tmp=/tmp/ansible-local", "remote_tmp=/tmp/ansible-remote")
        told = ("target_hosts=boxes", "action_prefix=", *places)
        words = [word for pair in told for word in ("-e", pair)]
        return ["./test.sh", "--limit", "boxes", *words]
    if (targets / name / "runme.sh").exists() and name not in ROLES:
        return ["./runme.sh", "--limit", "testhost"]
    play = targets.parent / f"{name}.json"
    play.write_text(json.dumps([{"hosts": "testhost", "roles": [name]}]))
    return ["ansible-playbook", "-i", inventory, str(play)]


def _environment(targets: Path, out: Path) -> dict[str, str]:
    inventory = str(targets.parent / "inventory")
    return {
        "ANSIBLE_CONNECTION_PLUGINS": str(TOP / "plugins/connection"),
        "ANSIBLE_CONFIG": str(out / "empty.cfg"),
        "ANSIBLE_FORCE_HANDLERS": "1",
        "ANSIBLE_HOST_KEY_CHECKING": "1",
        "ANSIBLE_ROLES_PATH": str(targets),
        "INVENTORY": inventory,
        "INVENTORY_PATH": inventory,
        "OUTPUT_DIR": str(out),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
