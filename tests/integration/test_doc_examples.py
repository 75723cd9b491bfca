# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Each inventory of the documentation is deployed, and each command is run, as they are printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, free_port, needs_root
from netmode_fixtures import named_netns
from sandlot import converge, images, network
from sandlot.spec import normalise_all
from test_cli_host import sandlot

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from test_docs import ROOT, Block, _commands, of_kind, variables  # noqa: E402

pytestmark = needs_root
BUSYBOX = {"name": "busybox", "source": "busybox"}
# They wait for more, or for a terminal, or are for a sandbox that is down.
ENDLESS = {"--follow", "-f", "--watch", "-t", "trace"}


@pytest.fixture
def namespace(host: Deployment) -> Iterator[str]:
    """In the place of what `ip netns add vpn` makes."""
    with named_netns(host) as path:
        yield path


def local(text: str, host: Deployment, namespace: str) -> Any:
    """The variables with subnets and a namespace of this host, and ports that are free."""
    text = text.replace("10.77.", f"{host.prefix}.").replace("10.78.0.", f"{host.prefix}.64.")
    found = variables(text.replace("/run/netns/vpn", namespace))
    for instance in found["sandbox_instances"]:
        ports = [str(port).rpartition(":")[2] for port in instance.get("published_ports", ())]
        if ports:
            instance["published_ports"] = [f"{free_port()}:{port}" for port in ports]
    return found


def deploy(host: Deployment, found: dict[str, Any]) -> converge.Result:
    networks = found.get("sandbox_networks", [])
    if all(entry["name"] != "default" for entry in networks):
        networks = [*networks, {"name": "default"}]
    for entry in networks:
        entry.setdefault("ipv4_subnet", f"{host.prefix}.0.0/22")
    request = converge.request(
        normalise_all(
            found["sandbox_instances"],
            defaults=found.get("sandbox_defaults", {}),
        ),
        images=images.normalise_all(found.get("sandbox_images", [BUSYBOX])),
        networks=network.normalise(host.paths, networks),
    )
    return converge.converge(host.paths, request)


@pytest.mark.parametrize("block", of_kind("yaml"), ids=str)
def test_an_inventory_is_deployed(host: Deployment, namespace: str, block: Block) -> None:
    found = local(block.text, host, namespace)
    first, second = deploy(host, found), deploy(host, found)
    assert (first.failed, second.actions) == ({}, [])
    jobs = {"no": "exited"}
    due = {
        instance["name"]: (jobs.get(instance.get("restart_policy"), "running"), 0)
        for instance in found["sandbox_instances"]
    }
    states = {each["name"]: (each["state"], each["restarts"]) for each in converge.info(host.paths)}
    assert states == due


def test_commands_run_on_the_demo(host: Deployment) -> None:
    found = local((ROOT / "inventory/local/group_vars/sandbox_hosts.yml").read_text(), host, "")
    assert deploy(host, found).failed == {}
    commands = [
        words[1:]
        for block, words in _commands()
        if block.kind != "sh example" and words[0] == "sandlot" and not ENDLESS.intersection(words)
    ]
    assert len(commands) > 8
    told = {" ".join(words): sandlot(host, *words) for words in commands}
    assert {line: done.stderr for line, done in told.items() if done.returncode} == {}
