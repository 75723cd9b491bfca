# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The choice of the playbook that updates a fleet; the rest is in Molecule's scenario fleet."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from converge_fixtures import Deployment, needs_root, sandbox
from plays import BIN, TOP

pytestmark = needs_root

BOXES = (("web", {}), ("db", {"labels": {"tier": "back"}}), ("bare", {"labels": {}}))


def boxes(**options: Any) -> list[dict[str, Any]]:
    return [sandbox(name, **labels, **options) for name, labels in BOXES]


def update(host: Deployment, path: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """A fleet of a host under a moved root, and one without sandboxes that is not there."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
    here = {
        **local,
        "sandbox_environment": {"SANDLOT_ROOT": host.paths.root},
        "sandbox_networks": [{"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}],
        "sandbox_instances": boxes(env={"A": "1"}),
        "sandbox_defaults": {"labels": {"tier": "front"}},
    }
    hosts = {"away": {"ansible_host": "127.0.0.1", "ansible_port": 9}, "here": here}
    (path / "hosts.json").write_text(json.dumps({"sandbox_hosts": {"hosts": hosts}}))
    return subprocess.run(
        [BIN / "ansible-playbook", "-i", path / "hosts.json", TOP / "playbooks/update_sandbox.yml",
         "-e", json.dumps(variables)],
        env={**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_label_of_the_defaults_chooses(host: Deployment, tmp_path: Path) -> None:
    labelled = {"labels": {"tier": "front"}}
    host.run(*({**labelled, **box} for box in boxes()))
    before = {name: host.pid(name) for name, _ in BOXES}
    done = update(host, tmp_path, sandbox_update_label="tier=front", sandbox_update_serial="25%")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- here updated web\n" in done.stdout
    assert "- away has no sandbox with the label tier=front\n" in done.stdout
    assert "WARNING" not in done.stderr
    after = {name: host.pid(name) for name, _ in BOXES}
    assert [name for name in before if before[name] != after[name]] == ["web"]


def test_bad_input_is_one_error(host: Deployment, tmp_path: Path) -> None:
    """The play ends for all hosts, before anything is done."""
    for variables, error in (
        ({"sandbox_update_label": "tier=none"}, "no host of the play lists a sandbox with the lab"),
        ({"sandbox_update_label": "=front"}, "no host of the play lists a sandbox with the label"),
        ({"sandbox_update_max_fail_percentage": "20%"}, "percentage: 20% is no percentage; give"),
        ({"sandbox_update_batch": 0}, "sandbox_update_batch: 0 is no number of sandboxes"),
    ):
        done = update(host, tmp_path, **{"sandbox_update_max_fail_percentage": 50, **variables})
        output = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 2 and error in output, output
        assert output.count("FAILED!") == 1 and "here : ok" not in output
