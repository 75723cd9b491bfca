# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The module sandbox_network as Ansible runs it, on the host played by a namespace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from lab import run
from sandlot import network

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


POLICIES = [
    {},
    {"egress": []},
    {"egress": ["203.0.113.0/24", {"to": "198.51.100.7", "ports": [443]}]},
    {"egress": ["169.254.169.254:80"]},
    {},
    {"host_access": ["53"]},
    {"host_access": ["53/udp"]},
    {},
    {"internal": True},
    {},
]


def test_policy_is_set_changed_and_removed(module):
    """Beside nothing else: each step is noticed once, and says what it opens."""
    for number, options in enumerate(POLICIES):
        networks = [{"name": "default", **options}]
        assert module("--check", networks=networks)["changed"]
        made = module(networks=networks)
        assert made["changed"]
        assert not module(networks=networks)["changed"]
        relaxed = [
            f"egress: {text}/tcp" for text in options.get("egress", ()) if "254" in str(text)
        ]
        relaxed += ["host_access: 53/tcp"] if options.get("host_access") == ["53"] else []
        relaxed += ["host_access: 53/udp"] if options.get("host_access") == ["53/udp"] else []
        assert made["relaxed"] == ({"default": relaxed} if relaxed else {}), number


def test_a_name_without_an_address_is_a_warning(lab, module):
    """ "localhost" needs no name server, and what it means grants nothing."""
    made = module(networks=[{"name": "default", "egress": ["localhost:80"]}])
    assert made["networks"]["default"]["egress"] == ["localhost:80/tcp"]
    (warning,) = network.name_warnings(lab.paths)
    assert "localhost, in an egress list, has no address" in warning
    module(networks=[{"name": "default"}])
    assert network.name_warnings(lab.paths) == []


def test_refusals(lab, module):
    refused = module(networks=[{"name": "default", "ipv4_subnet": "192.0.2.0/24"}])
    assert "overlaps this host's route" in refused["msg"]
    refused = module(networks=[{"name": "other"}])
    assert "ipv4_subnet" in refused["msg"]
    refused = module(networks=[{"name": "default", "egress": ["example.org/24"]}])
    assert "egress[0]" in refused["msg"]
    refused = module(networks=[{"name": "default", "host_access": ["10.0.0.1:53"]}])
    assert "host_access[0]" in refused["msg"]
    assert not Path(lab.paths.networks_file).exists()
