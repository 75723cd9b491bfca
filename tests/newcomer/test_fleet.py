# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The README's inventory, unchanged, and the plays over SSH that it shows; a play in sandboxes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import machine
import pytest
import readme
import roots
import ssh
from newcomers import Newcomer

HOSTS = {"alpha": "192.0.2.10", "beta": "192.0.2.11"}
PLAY = "ansible-playbook -i inventory/hosts.yml"
DEPLOY = f"{PLAY} deploy-sandbox.yml"
# What the recap says of each host.
SHOWN = {
    DEPLOY: "changed=[1-9]",
    f"{DEPLOY} --check --diff": "changed=0",
    f"{PLAY} playbooks/update_sandbox.yml -e sandbox_update_label=app=web": "changed=0",
    f"{PLAY} playbooks/audit_sandbox.yml": "changed=0",
    f'{PLAY} playbooks/rebuild_sandbox.yml -e \'{{"sandbox_rebuild": ["web"]}}\'': "changed=1",
    f"{PLAY} playbooks/teardown_sandbox.yml": "changed=[1-9]",
}
ACTIVATE = ". .venv/bin/activate"
INSIDE = "tests/newcomer/inside"
# Debian with Python, which is an image there.
TREE = "srv/debian"


def _remote(stack: contextlib.ExitStack, newcomer: Newcomer, name: str, key: str) -> str:
    """A host with an SSH server and its user; the line by which SSH knows it."""
    archive = roots.remote("bookworm")
    host = stack.enter_context(machine.running(newcomer.network, archive, name, HOSTS[name]))
    ssh.admit(host.root, key)
    ssh.serve(stack, host)
    machine.unpack(archive, host.root / TREE)
    return ssh.known(host.root, HOSTS[name])


@pytest.fixture(scope="module")
def fleet(newcomer: Newcomer) -> Iterator[None]:
    directory = Path(newcomer.host.root, newcomer.home[1:], ".ssh")
    newcomer.types("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    key = (directory / "id_ed25519.pub").read_text()
    with contextlib.ExitStack() as stack:
        known = [_remote(stack, newcomer, name, key) for name in HOSTS]
        (directory / "known_hosts").write_text("".join(known))
        (directory / "known_hosts").chmod(0o644)
        inventory = Path(newcomer.host.root, newcomer.clone[1:], "inventory/hosts.yml")
        inventory.write_text(readme.inventory())
        inventory.chmod(0o644)
        yield


def test_the_readme_says_what_is_typed_here() -> None:
    assert readme.commands("An inventory") == [ACTIVATE, *SHOWN]


@pytest.mark.suites("bookworm")
@pytest.mark.usefixtures("fleet")
def test_plays(newcomer: Newcomer) -> None:
    for command, shown in SHOWN.items():
        _play(newcomer, command, shown)
        if command == DEPLOY:
            _play(newcomer, command, "changed=0")
            page = "http://192.0.2.10:8080/hostname"
            assert newcomer.types(f"curl {page}").text.endswith("web\n")


@pytest.mark.suites("bookworm")
@pytest.mark.usefixtures("fleet")
def test_a_play_in_sandboxes(newcomer: Newcomer) -> None:
    """Packages, a template and a service, in sandboxes that the inventory plugin lists."""
    _play(newcomer, f"ansible-playbook -i {INSIDE}/hosts.yml deploy-sandbox.yml", "changed=[1-9]")
    inside = [f"web@{name}" for name in HOSTS]
    command = f"ansible-playbook -i {INSIDE}/sandboxes.yml {INSIDE}/play.yml"
    _play(newcomer, command, "changed=[23]", inside)
    _play(newcomer, command, "changed=0", inside)
    for name, address in HOSTS.items():
        page = newcomer.types(f"curl http://{address}:8081/").text
        assert page.endswith(f"web@{name} runs debian\n")


def _play(newcomer: Newcomer, command: str, shown: str, hosts: Iterable[str] = HOSTS) -> None:
    text = newcomer.types(f"{ACTIVATE}\n{command}").text
    for name in hosts:
        assert re.search(rf"(?m)^{name} +: ok=\d+ +{shown}\b.* failed=0", text), text
    assert "WARNING" not in text, text
