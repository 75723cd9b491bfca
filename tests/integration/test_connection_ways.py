# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The ways to a host, whose users and passwords, and the users inside."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connection_fixtures import SANDBOXES, Fleet, Kept, fleet_of
from converge_fixtures import needs_root
from ssh_hosts import PASSWORD, WARDEN

pytestmark = [needs_root, pytest.mark.slow]

WHO = {"raw": "echo $(id -un) in $(hostname)"}
ROOT_IN_WEB = "root in web"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(*SANDBOXES) as made:
        yield made


@pytest.fixture
def secret(fleet: Fleet) -> Path:
    found = fleet.top / "secret"
    found.write_text(PASSWORD + "\n")
    return found


def said(kept: list[Kept]) -> dict[str, str]:
    return {one.host: one.stdout for one in kept}


def test_root_and_an_ordinary_user_of_the_host(fleet: Fleet) -> None:
    played = fleet.play({"hosts": "web@here,web@alpha,web@root", "tasks": [WHO]})
    assert said(played.kept) == dict.fromkeys(["web@here", "web@alpha", "web@root"], ROOT_IN_WEB)


def test_a_password_of_sudo_that_ansible_asks_for(fleet: Fleet, secret: Path) -> None:
    play = {"hosts": "web@guarded", "tasks": [WHO, {**WHO, "become": True}]}
    words = ("--become-password-file", str(secret))
    assert said(fleet.play(play, words=words).kept) == {"web@guarded": ROOT_IN_WEB}
    denied = fleet.play(play, fails=True).last
    assert denied.message.endswith("host guarded has run nothing: Missing sudo password")


def test_passwords_of_variables_are_those_of_their_host(fleet: Fleet, secret: Path) -> None:
    """Each has its own, also where Ansible has asked for another one."""
    vault = ("--vault-password-file", str(secret))
    play = {"hosts": "web@guarded", "tasks": [{**WHO, "become": True}]}
    (fleet.top / "host_vars").mkdir()
    own = fleet.top / "host_vars/guarded.json"
    own.write_text(json.dumps({"ansible_become_password": PASSWORD}))
    fleet.vault(own, secret)
    wrong = {"web@guarded": {"ansible_become_password": "wrong", "ansible_password": "wrong"}}
    assert fleet.play(play, hosts=wrong, words=vault).last.stdout == ROOT_IN_WEB
    own.unlink()
    # A control: the same value as a variable of the sandbox opens nothing.
    right = {"web@guarded": {"ansible_become_password": PASSWORD}}
    denied = fleet.play(play, hosts=right, fails=True).last
    assert denied.message.endswith("Missing sudo password")


@pytest.mark.parametrize(
    ("plugin", "module"), [("ssh", "os"), ("paramiko_ssh", "paramiko")], ids=["ssh", "paramiko"]
)
def test_a_password_of_the_host(fleet: Fleet, secret: Path, plugin: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    way: dict[str, Any] = {
        "ansible_connection": plugin,
        "ansible_ssh_private_key_file": None,
        "ansible_paramiko_host_key_checking": False,
        "ansible_become_password": PASSWORD,
    }
    words = ("--connection-password-file", str(secret))
    play = {"hosts": "web@guarded", "tasks": [WHO, {"raw": "cat", "become": True}]}
    played = fleet.play(play, hosts={"guarded": way}, words=words)
    assert played.kept[0].stdout == ROOT_IN_WEB


def test_a_jump_host(fleet: Fleet) -> None:
    server = fleet.server
    known = f"-o UserKnownHostsFile={server.top}/known"
    jump = f"ssh -i {server.top}/user {known} -p {server.port} -W 127.0.0.1:{server.port}"
    common = f"{known} -o ProxyCommand='{jump} root@127.0.0.1'"
    way = {"ansible_host": "192.0.2.1", "ansible_ssh_common_args": common}
    hosts = {"alpha": {**way, "ansible_ssh_host_key_checking": False}}
    assert fleet.play({"hosts": "web@alpha", "tasks": [WHO]}, hosts=hosts).last.stdout == (
        ROOT_IN_WEB
    )


def test_one_connection_to_the_host_serves_all_of_its_sandboxes(fleet: Fleet) -> None:
    first = {"hosts": "web@alpha", "tasks": [{"meta": "reset_connection"}, WHO]}
    rest = {"hosts": "web@alpha,strict@alpha,alpha", "tasks": [WHO, WHO]}
    before = fleet.server.logins(WARDEN)
    fleet.play(first, rest)
    assert fleet.server.logins(WARDEN) == before + 1
    fleet.play(first)
    assert fleet.server.logins(WARDEN) == before + 2


def test_users_inside(fleet: Fleet) -> None:
    tasks = [
        {"user": {"name": "joe"}},
        {**WHO, "remote_user": "joe"},
        {"command": "id -un", "become": True, "become_user": "{{ item }}", "loop": ["joe", "root"],
         "register": "became"},
        {"assert": {"that": "became.results | map(attribute='stdout') | list == ['joe', 'root']"}},
        {"copy": {"content": "x", "dest": "/tmp/of-joe"}, "become": True, "become_user": "joe",
         "become_method": "su"},
        {"copy": {"content": "x", "dest": "/tmp/of-nobody"}, "become": True,
         "become_user": "nobody"},
        {"raw": "stat -c %U:%a /tmp/of-joe /tmp/of-nobody; ls -d /var/tmp/ansible* /tmp/ansible*"},
    ]  # fmt: skip
    played = fleet.play({"hosts": "debian@alpha", "tasks": tasks[:-1]})
    assert played.kept[1].stdout == "joe in debian"
    seen = fleet.play({"hosts": "debian@alpha", "tasks": [{**tasks[-1], "failed_when": False}]})
    assert seen.last.stdout.splitlines() == ["joe:644", "nobody:644"]


def test_users_of_hosts_are_not_users_inside(fleet: Fleet) -> None:
    """What ansible.cfg says is of hosts; the command line (-u) and keywords are of sandboxes."""
    play = {"hosts": "web@alpha,strict@alpha", "tasks": [WHO]}
    inside = {"web@alpha": "root in web", "strict@alpha": "www-data in strict"}
    hosts = {"alpha": {"ansible_user": None}}
    environment = {"ANSIBLE_REMOTE_USER": WARDEN}
    assert said(fleet.play(play, hosts=hosts, environment=environment).kept) == inside
    words = ("-u", "www-data")
    debian = {"hosts": "debian@alpha", "tasks": [WHO]}
    played = fleet.play(debian, hosts=hosts, environment=environment, words=words)
    assert played.last.stdout == "www-data in debian"
    delegated = {"hosts": "here", "tasks": [{**WHO, "delegate_to": "strict@alpha"}]}
    played = fleet.play(delegated, hosts=hosts, environment=environment)
    assert played.last.stdout == "www-data in strict"


def test_delegated_tasks(fleet: Fleet) -> None:
    names = ["web@alpha", "strict@here"]
    task = {**WHO, "delegate_to": "{{ item }}", "loop": names, "register": "said"}
    shown = {"assert": {"that": "said.results | map(attribute='stdout') | map('trim') | list =="
                                " ['root in web', 'www-data in strict']"}}  # fmt: skip
    fleet.play({"hosts": "root,debian@alpha", "tasks": [task, shown]})


def test_names_of_the_sandbox_and_its_host(fleet: Fleet) -> None:
    shop = {"ansible_connection": "sandbox", "ansible_sandbox_host": "here"}
    hosts = {"shop": {**shop, "ansible_sandbox_name": "web"}, "web": shop}
    assert said(fleet.play({"hosts": "shop,web", "tasks": [WHO]}, hosts=hosts).kept) == {
        "shop": ROOT_IN_WEB,
        "web": ROOT_IN_WEB,
    }


def test_a_terminal_only_when_asked(fleet: Fleet) -> None:
    asks = {"raw": "test -t 1 && tty; printf 'a\\n' >&2"}
    plain = fleet.play({"hosts": "web@alpha,web@here", "tasks": [{**asks}]})
    assert {(one.stdout, one.result["stderr"]) for one in plain.kept} == {("", "a\n")}
    asked = [{**asks, "vars": {"ansible_sandbox_tty": True}}]
    with_one = fleet.play({"hosts": "web@alpha,web@here", "tasks": asked})
    for one in with_one.kept:
        assert re.fullmatch(r"/dev/pts/\d+\r?\na\r?\n", one.result["stdout"])


def test_a_module_without_pipelining(fleet: Fleet) -> None:
    tasks = [{"command": "id -un", "become": True, "become_user": "nobody"}]
    hosts = {"debian@alpha": {"ansible_pipelining": False}}
    assert (
        fleet.play({"hosts": "debian@alpha", "tasks": tasks}, hosts=hosts).last.stdout == "nobody"
    )


def test_paths_of_a_user_at_home(fleet: Fleet) -> None:
    """Paths below ~ are those of the user that runs the task."""
    tasks = [
        {"user": {"name": "ann", "home": "/srv/ann"}},
        {"copy": {"content": "x", "dest": "~/note"}, "become": True, "become_user": "ann"},
        {"stat": {"path": "/srv/ann/note"}, "register": "seen"},
        {"assert": {"that": "seen.stat.pw_name == 'ann'"}},
    ]
    fleet.play({"hosts": "debian@here", "tasks": tasks})
