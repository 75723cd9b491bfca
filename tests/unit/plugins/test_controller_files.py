# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""src, template_src and env_file: files of the controller become contents, or one clear error."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultEditor, VaultLib, VaultSecret
from ansible.template import Templar
from sandlot.spec import configuration as engine
from sandlot_plugins.plugin_utils import configuration
from sandlot_plugins.plugin_utils.configuration import filled

Json = dict[str, Any]
SECRETS = [("prod", VaultSecret(b"open"))]


class Action:
    """An action plugin of a task of a playbook in ``top``."""

    def __init__(self, top: Path) -> None:
        self._loader = DataLoader()
        self._loader.set_basedir(str(top))
        self._loader.set_vault_secrets(SECRETS)
        self._templar = Templar(loader=self._loader)

    def _find_needle(self, dirname: str, needle: str) -> str:
        stack = [self._loader.get_basedir()]
        return str(self._loader.path_dwim_relative_stack(stack, dirname, needle))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("files", "templates"):
        (tmp_path / name).mkdir()
    return tmp_path


def fill(top: Path, arguments: Json, **variables: Any) -> Json:
    return filled(arguments, Action(top), variables)


def one(top: Path, entry: Json, option: str = "files", **variables: Any) -> Json:
    """What the module gets of one file or secret of sandbox web."""
    arguments = {"sandboxes": [{"name": "web", option: [entry]}]}
    (given,) = fill(top, arguments, **variables)["sandboxes"][0][option]
    found: Json = given
    return found


def refused(top: Path, entry: Json, option: str = "files", **variables: Any) -> str:
    with pytest.raises(AnsibleActionFail) as error:
        one(top, entry, option, **variables)
    assert error.value.__cause__ is None and "hunter2" not in str(error.value)
    return str(error.value)


def test_a_file_is_taken_as_it_is(top: Path) -> None:
    data = bytes(range(256)) + b"{{ no_template }}\r\n"
    (top / "files/app.bin").write_bytes(data)
    for src in ("app.bin", "files/app.bin", str(top / "files/app.bin")):
        found = one(top, {"target": "/a", "src": src, "mode": "0600"})
        assert found.pop("content") == base64.b64encode(data).decode()
        assert found == {"target": "/a", "encoding": "base64", "mode": "0600"}
    assert "value" in one(top, {"name": "a", "src": "app.bin"}, "secrets")


def test_a_template_is_rendered_as_ansible_does(top: Path) -> None:
    (top / "templates/part.j2").write_text("part {{ port }}\n")
    text = (
        "# {{ ansible_managed }} {{ template_path }} {{ template_destpath }}\n"
        "{% for n in [1, 2] %}\n{{ n }}\\n\n{% endfor %}\n{% include 'part.j2' %}\n\n"
    )
    (top / "templates/a.j2").write_text(text)
    entry = {"target": "/etc/a", "template_src": "a.j2"}
    expected = "1\\n\n2\\n\npart 80\n\n"
    found = one(top, entry, port=80, ansible_managed="ours")
    assert found == {"target": "/etc/a", "content": f"# ours a.j2 /etc/a\n{expected}"}
    assert one(top, entry, port=80)["content"].startswith("# Ansible managed")
    (top / "templates/a.j2").write_text("#jinja2: trim_blocks: False\n{% if 1 %}\nx{% endif %}")
    assert one(top, entry)["content"] == "\nx"
    (top / "templates/a.j2").write_text("{{ port }}")
    assert one(top, entry, port=80)["content"] == "80"


def test_vaulted_files_are_decrypted(top: Path) -> None:
    editor = VaultEditor(VaultLib(SECRETS))
    for name in ("files/key", "templates/t.j2", "files/vars.env"):
        (top / name).write_bytes(b"A={{ x }}\n\xff"[: -1 if name != "files/key" else None])
        editor.encrypt_file(str(top / name), SECRETS[0][1], vault_id="prod")
        assert (top / name).read_bytes().startswith(b"$ANSIBLE_VAULT;1.2;AES256;prod")
    found = one(top, {"name": "a", "src": "key"}, "secrets")
    assert base64.b64decode(found["value"]) == b"A={{ x }}\n\xff"
    assert one(top, {"name": "a", "template_src": "t.j2"}, "secrets", x="1")["value"] == "A=1\n"
    sandbox = {"name": "web", "env_file": "vars.env"}
    assert fill(top, {"sandboxes": [sandbox]})["sandboxes"][0]["env"]["A"]["value"] == "{{ x }}"
    (top / "files/key").write_bytes(
        VaultLib([]).encrypt(b"hunter2", VaultSecret(b"other"), "other")
    )
    assert "can't be decrypted: Decryption failed" in refused(
        top, {"name": "a", "src": "key"}, "secrets"
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"src": "none"},
            r"src: 'none' is not on the controller; searched: .*/files/none, .*; put",
        ),
        ({"template_src": "none.j2"}, r"template_src: 'none.j2' is not .*/templates/none.j2"),
        ({"src": "/nonexistent/x"}, "'/nonexistent/x' is not on the controller; put it into"),
        ({"src": "files"}, "src: .*/files is a directory; name a file"),
        ({"src": ""}, "is a directory; name a file"),
        ({"src": "/dev/null"}, "/dev/null is no regular file; name a file"),
        ({"src": "big"}, "files/big has 1048577 bytes; 1048576 are the limit"),
        ({"template_src": "big.j2"}, "big.j2 has 1200000 bytes; 1048576 are the limit"),
        ({"template_src": "latin.j2"}, "latin.j2 is not UTF-8 text; save it as UTF-8"),
        (
            {"template_src": "undefined.j2"},
            "undefined.j2 can't be rendered: 'missing' is undefined",
        ),
        ({"template_src": "syntax.j2"}, "syntax.j2 can't be rendered: .*; correct the template"),
        ({"src": "small", "encoding": "base64"}, "src: encoding has no effect here; it is for "),
    ],
)
def test_an_error_names_sandbox_option_path_and_remedy(
    top: Path, entry: Json, message: str
) -> None:
    (top / "files/small").write_text("x")
    (top / "files/big").write_bytes(b"x" * 1048577)
    (top / "templates/big.j2").write_text("{{ 'x' * 1200000 }}")
    (top / "templates/latin.j2").write_bytes(b"hunter2 \xe4")
    (top / "templates/undefined.j2").write_text("hunter2 {{ missing }}")
    (top / "templates/syntax.j2").write_text("hunter2 {% if %}")
    assert re.search(rf"^sandbox 'web': files\[0\]\..*{message}", refused(top, entry))


def test_a_secrets_limit_and_its_template_tell_no_value(top: Path) -> None:
    (top / "files/big").write_bytes(b"x" * 512001)
    problem = refused(top, {"name": "a", "src": "big"}, "secrets")
    assert re.search(r"secrets\[0\]\.src: .*/big has 512001 bytes; 512000 are the limit", problem)
    (top / "templates/a.j2").write_text("{{ password | from_json }}")
    entry = {"name": "a", "template_src": "a.j2"}
    problem = refused(top, entry, "secrets", password="hunter2")
    assert re.search(r"a\.j2 can't be rendered: \w+; correct the template", problem)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads any file")
def test_a_file_of_somebody_else(top: Path) -> None:
    (top / "files/mine").write_text("x")
    (top / "files/mine").chmod(0)
    problem = refused(top, {"src": "mine"})
    assert "mine can't be read; make it readable for the user who runs Ansible" in problem


def test_variables_of_env_files(top: Path) -> None:
    (top / "files/a.env").write_text("A=1\nB=1\nC=1\n")
    (top / "files/b.env").write_text("export B='2'\nC=2\n")
    arguments = {
        "defaults": {"env_file": "a.env", "env": {"C": "0"}, "user": "1"},
        "sandboxes": [
            {"name": "both"},
            {"name": "own", "env_file": ["a.env", "b.env"], "env": {"A": "9"}},
            {"name": "none", "env_file": []},
            {"name": "gone", "state": "absent", "env_file": "missing", "files": [{"src": "no"}]},
        ],
    }
    found = fill(top, arguments)
    assert found["defaults"] == {"env": {"C": "0"}, "user": "1"}
    both, own, none, gone = found["sandboxes"]
    one = {"value": "1", "secret": True}
    two = {"value": "2", "secret": True}
    assert both == {"name": "both", "env": {"A": one, "B": one, "C": "0"}}
    assert own == {"name": "own", "env": {"A": "9", "B": two, "C": two}}
    assert none == {"name": "none"}
    assert gone == {"name": "gone", "state": "absent", "files": []}
    alone = fill(top, {"name": "web", "env_file": "b.env"})
    assert alone == {"name": "web", "env": {"B": two, "C": two}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nhunter2 x\n", "a.env line 2 does not start with the name of a variable; write NAME"),
        ("A='hunter2\n", "a.env line 1 has a value without its final '; add the quote"),
        ("A=1\nB\n", "a.env line 2 has a name without a value; write B=VALUE"),
    ],
)
def test_a_wrong_line_is_named(top: Path, text: str, message: str) -> None:
    (top / "files/a.env").write_text(text)
    with pytest.raises(AnsibleActionFail) as error:
        fill(top, {"sandboxes": [{"name": "web", "env_file": "a.env"}]})
    assert str(error.value).startswith("sandbox 'web': env_file: ")
    assert message in str(error.value) and "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sandboxes": None, "defaults": None},
        {"sandboxes": "web", "defaults": "x"},
        {"sandboxes": [None, "web", {"name": 5, "files": "x", "secrets": [None, "x"]}]},
        {
            "sandboxes": [
                {"files": [{"src": 5}, {"content": "x"}, {"src": "a", "content": "b"}, {}]}
            ]
        },
        {"sandboxes": [{"env_file": 5}, {"env_file": [5]}], "defaults": {"env_file": 5}},
        {"name": "web", "files": [{"target": "/x", "content": "{{ x }}"}]},
    ],
)
def test_what_is_malformed_is_left_to_the_module(top: Path, arguments: Json) -> None:
    assert fill(top, arguments) == arguments


def test_a_malformed_env_is_left_to_the_module(top: Path) -> None:
    arguments = {"sandboxes": [{"name": "web", "env_file": "none", "env": "hunter2"}]}
    assert fill(top, arguments) == {"sandboxes": [{"name": "web", "env": "hunter2"}]}


def test_limits_are_those_of_the_engine() -> None:
    assert {content: limit for content, limit in configuration.FILLED.values()} == engine.LONGEST
