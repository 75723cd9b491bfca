# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The way to a host, by its own connection plugin; the host's sandlot is a script here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.loader import init_plugin_loader
from sandlot_plugins.plugin_utils import transport

SUDO = '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do [ "$1" = -u ] && shift; shift; done\nexec "$@"\n'
Hosts = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    init_plugin_loader()


@pytest.fixture
def host(tmp_path: Path) -> Hosts:
    """A host whose sandlot is the script; ``variables`` are put over the inventory's."""

    def made(script: str = "", **variables: Any) -> Any:
        program = tmp_path / "usr/local/bin/sandlot"
        if script:
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        found = {
            "ansible_connection": "local",
            "ansible_become": False,
            "sandbox_environment": {"SANDLOT_ROOT": str(tmp_path)},
        }
        return transport.Transport("alpha", {**found, **variables})

    return made


def test_words_and_bytes_come_as_they_are(host: Hosts) -> None:
    way = host('for word; do echo "<$word>"; done; cat; printf "a\\0b" >&2; exit 7')
    words = ["exec", "a b", "$HOME", "it's", ""]
    code, out, err = way.run(words, bytes(range(256)))
    assert code == 7
    assert out == b"<exec>\n<a b>\n<$HOME>\n<it's>\n<>\n" + bytes(range(256))
    assert err == b"a\0b"


def test_no_input_is_an_empty_one(host: Hosts) -> None:
    """A pipe here, whose other end stays open."""
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as open_end:
        assert open_end.stdout is not None
        own = os.dup(0)
        os.dup2(open_end.stdout.fileno(), 0)
        try:
            assert host("cat").run([]) == (0, b"", b"")
        finally:
            os.dup2(own, 0)
            os.close(own)
            open_end.kill()


def test_the_root_is_the_hosts_own(host: Hosts, tmp_path: Path) -> None:
    assert host('echo "$SANDLOT_ROOT"').run([])[1].decode() == f"{tmp_path}\n"
    with pytest.raises(AnsibleError, match="sandbox_environment of host alpha is no mapping"):
        host("true", sandbox_environment="X=1")


@pytest.mark.parametrize("code", [0, 1, 5, 255])
def test_exit_codes_are_none_of_the_connection(
    host: Hosts, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Nor is error output: ssh of Ansible takes such text for a failure of its own after others."""
    text = b"Bad configuration option: ControlPersist"
    way = host(f"printf '{text.decode()}' >&2; exit {code}")
    execute, seen = way._connection.exec_command, []

    def noted(*words: Any) -> Any:
        seen.append(execute(*words))
        return seen[-1]

    monkeypatch.setattr(way._connection, "exec_command", noted)
    assert way.run([]) == (code, b"", text)
    assert [result[0] for result in seen] == [0]


def test_a_host_without_sandlot_is_named(host: Hosts, tmp_path: Path) -> None:
    with pytest.raises(AnsibleConnectionFailure) as caught:
        host().run(["list"])
    assert f"alpha has no sandlot ({tmp_path}/usr/local/bin/sandlot is" in caught.value.message


def test_bad_plugins_are_named(host: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsibleError, match="ansible_connection 'carrier' of host alpha"):
        host(ansible_connection="carrier")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AnsibleError, match="ansible_become_method 'please' of host alpha"):
        host(ansible_become=True, ansible_become_method="please")


def test_an_ordinary_user_becomes_root(
    host: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of success is no output, whether the host's user is root or not."""
    sudo = tmp_path / "sudo"
    sudo.write_text(SUDO)
    sudo.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    way = host("cat", ansible_become=True, ansible_become_exe=str(sudo))
    assert way.run([], b"BECOME\n") == (0, b"BECOME\n", b"")


def test_a_connection_without_pipelining_has_the_input_in_its_command(
    host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = host("cat")
    assert way.pipelining
    monkeypatch.setattr(way._connection, "has_pipelining", False)
    data = bytes(range(256)) * 256
    assert way.run([], data)[1] == data
    with pytest.raises(AnsibleError, match="65537 bytes of input are too many"):
        way.run([], data + b"x")
