# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The module sandbox_network as Ansible runs it, on the host played by a namespace."""

from __future__ import annotations

import sys
from pathlib import Path

import plays
import pytest
import session_trees
from lab import call, run
from sandlot import converge, network

TWO = [{"name": "default"}, {"name": "tenants", "ipv4_subnet": "10.78.0.0/24", "isolated": True}]
PURGED = {"networks": [], "purge": True}


class Modules:
    """Runs one task for each set of options, on a host that has the runtime."""

    def __init__(self, lab):
        self.lab = lab
        self.shown = ""
        session_trees.release(lab.paths)

    def __call__(self, *wanted, fails=False):
        tasks = [_task(**options) for options in wanted]
        return plays.play(self.lab.paths, *tasks, fails=fails, run=self._run)

    def _run(self, command, environment):
        settings = {**environment, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        words = [f"{name}={value}" for name, value in settings.items()]
        self.shown = run(self.lab.host, "env", *words, *command)
        return self.shown


def _task(*, check_mode=False, **options):
    return {
        "sandbox_network": {"networks": TWO, **options},
        "vars": {"ansible_python_interpreter": sys.executable},
        "check_mode": check_mode,
        "diff": check_mode,
    }


@pytest.fixture
def modules(lab):
    return Modules(lab)


def test_networks_from_first_to_last(lab, modules):
    before = lab.fingerprint()
    (checked,) = modules({"check_mode": True})
    assert checked["changed"]
    assert '+    "tenants": {' in modules.shown
    assert not Path(lab.paths.state).exists()
    assert lab.fingerprint() == before

    removal = {"networks": [{"name": "tenants"}], "state": "absent"}
    made, again, gone, _ = modules({}, {}, removal, PURGED)
    assert made["actions"] == checked["actions"]
    assert made["networks"]["tenants"]["isolated"] is True
    assert not again["changed"]
    assert list(gone["networks"]) == ["default"]
    assert lab.fingerprint() == before
    (again,) = modules(PURGED)
    assert not again["changed"]


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


def _run(paths, options, check):
    """A run of the engine as the module asks for it, without the second that a module takes."""
    wanted = network.normalise(paths, [{"name": "default", **options}])
    result = converge.converge(paths, converge.request(None, networks=wanted, check=check))
    return result.changed, result.relaxed_networks


def test_policy_is_set_changed_and_removed(lab):
    """Beside nothing else: each step is noticed once, and says what it opens."""
    session_trees.release(lab.paths)
    for options in POLICIES:
        runs = [call(lab.host, _run, lab.paths, options, check) for check in (True, False, False)]
        assert [changed for changed, _ in runs] == [True, True, False], options
        relaxed = [
            f"egress: {text}/tcp" for text in options.get("egress", ()) if "254" in str(text)
        ]
        relaxed += ["host_access: 53/tcp"] if options.get("host_access") == ["53"] else []
        relaxed += ["host_access: 53/udp"] if options.get("host_access") == ["53/udp"] else []
        assert runs[1][1] == ({"default": relaxed} if relaxed else {}), options


def test_a_name_without_an_address_is_a_warning(lab, modules):
    """ "localhost" needs no name server, and what it means grants nothing."""
    wanted = ["169.254.169.254:80", "localhost:80"]
    (made,) = modules({"networks": [{"name": "default", "egress": wanted}]})
    assert made["networks"]["default"]["egress"] == [f"{each}/tcp" for each in wanted]
    assert made["relaxed"] == {"default": ["egress: 169.254.169.254:80/tcp"]}
    (warning,) = network.name_warnings(lab.paths)
    assert "localhost, in an egress list, has no address" in warning
    modules({"networks": [{"name": "default"}]})
    assert network.name_warnings(lab.paths) == []


def test_refusals(lab, modules):
    refusals = {
        "overlaps this host's route": {"name": "default", "ipv4_subnet": "192.0.2.0/24"},
        "ipv4_subnet": {"name": "other"},
        "egress[0]": {"name": "default", "egress": ["example.org/24"]},
        "host_access[0]": {"name": "default", "host_access": ["10.0.0.1:53"]},
    }
    refused = modules(*({"networks": [entry]} for entry in refusals.values()), fails=True)
    for text, result in zip(refusals, refused):
        assert result["failed"] and text in result["msg"]
    assert not Path(lab.paths.networks_file).exists()
