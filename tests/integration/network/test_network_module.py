# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The module sandbox_network as Ansible runs it, on the host played by a namespace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from lab import run

REPOSITORY = Path(__file__).parents[3]
TWO = [{"name": "default"}, {"name": "tenants", "ipv4_subnet": "10.78.0.0/24", "isolated": True}]


@pytest.fixture
def module(lab):
    def call(*options, **params):
        params.setdefault("networks", TWO)
        command = [
            f"{Path(sys.executable).parent}/ansible",
            "localhost",
            "--connection=local",
            "--module-name=sandbox_network",
            f"--args={json.dumps(params)}",
            f"--extra-vars=ansible_python_interpreter={sys.executable}",
            *options,
        ]
        environment = [
            f"SANDLOT_ROOT={lab.paths.root}",
            f"ANSIBLE_CONFIG={REPOSITORY}/ansible.cfg",
            "ANSIBLE_CALLBACK_RESULT_FORMAT=json",
        ]
        text = run(lab.host, "env", *environment, *command, check=False)
        shown, _, result = text.partition("=> ")
        return {**json.loads(result), "shown": shown}

    return call


def test_networks_from_first_to_last(lab, module):
    before = lab.fingerprint()
    checked = module("--check", "--diff")
    assert checked["changed"]
    assert '+    "tenants": {' in checked["shown"]
    assert not Path(lab.paths.state).exists()
    assert lab.fingerprint() == before

    made = module()
    assert made["actions"] == checked["actions"]
    assert made["networks"]["tenants"]["isolated"] is True
    assert not module()["changed"]

    gone = module(networks=[{"name": "tenants"}], state="absent")
    assert list(gone["networks"]) == ["default"]

    module(networks=[], purge=True)
    assert lab.fingerprint() == before
    assert not module(networks=[], purge=True)["changed"]


def test_refusals(lab, module):
    refused = module(networks=[{"name": "default", "ipv4_subnet": "192.0.2.0/24"}])
    assert "overlaps this host's route" in refused["msg"]
    refused = module(networks=[{"name": "other"}])
    assert "ipv4_subnet" in refused["msg"]
    assert not Path(lab.paths.networks_file).exists()
