# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Arguments as a playbook has them: refused by name before Ansible converts them."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import syslog
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ansible.module_utils
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from test_modules import MODULES, arguments

Json = dict[str, Any]
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def failure(module: str, capfd: pytest.CaptureFixture[str], **given: Any) -> Json:
    """What the module prints of arguments that are wrong; who asks is not the question here."""
    root = mock.patch("os.geteuid", return_value=0)
    with root, patch_module_args(given), pytest.raises(SystemExit):
        importlib.import_module(f"ansible.legacy.{module}").main()
    found: Json = json.loads(capfd.readouterr().out)
    assert found["failed"]
    return found


def texts(rows: Json, path: str = "") -> Iterator[str]:
    """Paths of the options that take text, "[]" for a list."""
    for name, row in rows.items():
        if getattr(row, "is_numeric", False):
            continue
        if row.get("elements", row["type"]) in ("str", "path") and not row.get("choices"):
            yield f"{path}{name}{'[]' if row['type'] == 'list' else ''}"
        yield from texts(row.get("options", {}), f"{path}{name}[].")


def nested(path: str, value: Any) -> Json:
    head, _, rest = path.partition(".")
    required = {"target": "/data"} if head in ("mounts[]", "files[]") else {"name": "web"}
    inner = {**required, **nested(rest, value)} if rest else value
    return {head.removesuffix("[]"): [inner] if head.endswith("[]") else inner}


REQUIRED = {"sandbox": {"name": "web"}, "sandbox_run": {"image": "busybox"}}


@pytest.mark.parametrize("value", [2013, True, 1.1], ids=str)
@pytest.mark.parametrize("module", MODULES)
def test_no_text_is_made_of_what_yaml_converted(
    module: str, value: object, legacy: None, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = list(texts(arguments(module)))
    assert paths or module == "sandbox_host"
    for path in paths:
        named = REQUIRED.get(module, {})
        message = failure(module, capfd, **{**named, **nested(path, value)})["msg"]
        hidden = "password" in path or path.endswith((".content", "secrets[].value"))
        assert ("the value" if hidden else repr(value)) in message, path
        assert "quote it" in message and path.rpartition(".")[2].removesuffix("[]") in message


WRONG = {
    "user: 33:33": "sandbox 'web': user: 2013 is an integer, not a string; quote it: YAML reads "
    "33:33 as 2013, too; after a template, add | string",
    "egress: [22:22]": "sandbox 'web': egress[0]: 1342 is an integer, not a string; quote it: "
    "YAML reads 22:22 as 1342, too; after a template, add | string",
    "hostname: yes": "sandbox 'web': hostname: True is a boolean, not a string; quote it: YAML "
    "reads yes, no, on and off as booleans",
    "published_ports: [8080:53]": "published_ports[0]: 484853 is an integer",
    "command: [chmod, 0644, /x]": "command[1]: 420 is an integer, not a string; quote it",
    "labels: {version: 1.10}": "labels['version']: 1.1 is a number, not a string; quote it: YAML "
    "reads 1.10 as 1.1",
    "capabilities: [~]": "capabilities[0]: None is not an item; give it a value, or leave the "
    "item out",
    "networks: [default]": "sandbox 'web': networks[0]: 'default' is a string, not a mapping; "
    "write it as `- name: default`",
    "networks: [{name: a, ipv4_adress: x}]": "sandbox 'web': networks[0].ipv4_adress: "
    "'ipv4_adress' is not an option of this sandlot; did you mean ipv4_address?",
    "imgae: busybox": "sandbox 'web': imgae: 'imgae' is not an option of this sandlot; did you "
    "mean image?",
    "stop_timeout: soon": "sandbox 'web': stop_timeout: 'soon' is not a whole number",
    "stop_timeout: yes": "stop_timeout: True is not a whole number",
    "cpus: [1]": "cpus: [1] is not a number",
    "read_only: perhaps": "read_only: 'perhaps' is not a boolean; use true or false",
    "published_ports: 8080": "published_ports: 8080 is an integer, not a list",
    "state: startd": "sandbox 'web': state: 'startd' is not a choice; use one of present,",
    "env: PASSWORD=hunter2": "sandbox 'web': env: the value is a string, not a mapping",
    "env: [PASSWORD=hunter2]": "env: the value is a list, not a mapping",
    "env: {PASSWORD=hunter2: x}": "env: 'PASSWORD=' can't name a variable",
    "env: {UMASK: 022}": "env['UMASK']: the value is an integer, not a string; quote it: YAML "
    "reads 22:22 as 1342 and 010 as 8; after a template, add | string",
    "env: {PIN: 7001}": "env['PIN']: the value is an integer, not a string; quote it",
    "env_file: {PASSWORD: hunter2}": "env_file: {'PASSWORD': ...} is a mapping, not a list",
    "secrets: [{name: {db: hunter2}}]": "secrets[0].name: {'db': ...} is a mapping, not a string",
    "secrets: hunter2": "sandbox 'web': secrets: the value is a string, not a list",
    "secrets: [hunter2]": "sandbox 'web': secrets[0]: the value is a string, not a mapping",
    "secrets: [{name: a, value: 7001}]": "secrets[0].value: the value is an integer, not a string",
    "secrets: [{name: a, value: [hunter2]}]": "secrets[0].value: the value is a list, not a string",
    "secrets: [{name: a, content: b}]": "did you mean value?",
    "files: [{dest: /a, content: b}]": "did you mean target?",
    "secrets: [{name: a, digest: b}]": "'digest' is not an option of this sandlot",
    "files: [{target: /a, content: {k: hunter2}}]": "files[0].content: the value is a mapping, not "
    "a string; write it as text: after a template, add | to_json",
    "files: [{target: /a, content: hunter2, mode: 0600}]": "files[0].mode: 384 is an integer, not "
    "a string; quote it: YAML reads 0600 as 384, too",
    "environment: {PASSWORD: hunter2}": "'environment' is not an option of this sandlot",
}


@pytest.mark.parametrize("text", WRONG)
def test_messages_name_sandbox_option_value_and_remedy(
    text: str, legacy: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDLOT_ROOT", "/nonexistent")
    web = {"name": "web", "image": "busybox", "env": {"OTHER": "hunter2"}, **yaml.safe_load(text)}
    found = failure("sandboxes", capfd, sandboxes=[{"name": "db", "image": "b"}, web])
    assert WRONG[text] in found["msg"]
    assert "hunter2" not in json.dumps(found)
    assert not {"7001", "116:41"} & set(re.findall(r"[\d:]+", json.dumps(found)))
    assert "sandbox 'web'" not in failure("sandbox", capfd, **web)["msg"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"sandboxes": ["web"]}, "sandboxes[0]: 'web' is a string, not a mapping; write it as `- "),
        ({"sandboxes": [None]}, "sandboxes[0]: None is null, not a mapping"),
        ({"sandboxes": [{"image": "b"}]}, "sandboxes[0].name: no value given"),
        ({"sandboxs": []}, "sandboxs: 'sandboxs' is not an option of this sandlot; did you mean "),
        ({"networks": [{"name": "n", "ipv4_subent": "x"}]}, "network 'n': ipv4_subent: "),
        ({"images": [{"name": "i", "soruce": "x"}]}, "image 'i': soruce: "),
        ({"images": [{"name": "i", "source": "tmpfs", "mode": 448}]}, "YAML reads 0700 as 448"),
        ({"purge": "maybe"}, "purge: 'maybe' is not a boolean"),
        ({"defaults": {"user": 2013}, "sandboxes": [{"name": "a"}]}, "user: 2013 is an integer"),
    ],
)
def test_messages_about_other_kinds(
    given: Json, expected: str, legacy: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert expected in failure("sandboxes", capfd, **given)["msg"]


def test_a_failure_shows_no_value_of_a_misspelled_option_of_a_step(
    legacy: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("SANDLOT_ROOT", "/nonexistent")
    steps = [{"command": ["true"], "environment": {"PASSWORD": "hunter2"}}]
    found = failure(
        "sandbox_rootfs", capfd, images=[{"name": "i", "source": "busybox", "setup": steps}]
    )
    assert "hunter2" not in json.dumps(found)
    assert found["invocation"]["module_args"]["images"][0]["name"] == "i"


MARKED = [
    {"secrets": [{"name": "a", "value": "hunter2"}]},
    {"secrets": [{"name": "a", "vaule": "hunter2"}]},
    {"secrets": [{"name": "a", "value": ["hunter2"]}]},
    {"secrets": [{"name": "a", "value": {"hunter": "hunter2"}}]},
    {"secrets": [{"name": "a", "value": "hunter2", "encoding": "base64"}]},
    {"secrets": [{"name": "a", "value": "hunter2", "src": "x"}]},
    {"secrets": [{"name": "a", "value": "hunter2", "mode": 292}]},
    {"secrets": [{"name": "a", "value": "hunter2\0"}]},
    {"secrets": [{"name": "a", "value": "hunter2" * 80000}]},
    {"secrets": ["hunter2"]},
    {"secrets": "hunter2"},
    {"secrets": {"a": "hunter2"}},
    {"secrest": [{"name": "a", "value": "hunter2"}]},
    {"files": [{"target": "/a", "content": "hunter2"}]},
    {"files": [{"target": "/a", "contents": "hunter2"}]},
    {"files": [{"target": "/a", "content": "hunter2", "mode": "9"}]},
    {"files": [{"target": "/", "content": "hunter2"}]},
    {"files": ["hunter2"]},
    {"env": {"A": {"value": "hunter2", "secret": True}}},
    {"env": {"A": {"vaule": "hunter2"}}},
    {"env": {"A": {"value": ["hunter2"]}}},
    {"env": {"A": {"value": "hunter2", "secret": "perhaps"}}},
    {"env": {"A": ["hunter2"]}},
    {"env": [{"A": "hunter2"}]},
    {"healthcheck": "hunter2", "secrets": []},
]


@pytest.mark.parametrize("given", MARKED, ids=str)
@pytest.mark.parametrize("place", ["sandbox", "sandboxes", "defaults"])
def test_no_message_has_a_value_that_is_hidden(
    place: str, given: Json, legacy: None, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    web = {"name": "web", "image": "busybox"}
    whole = {
        "sandbox": {**web, **given},
        "sandboxes": {"sandboxes": [{**web, **given}]},
        "defaults": {"sandboxes": [web], "defaults": given},
    }[place]
    module = "sandbox" if place == "sandbox" else "sandboxes"
    with mock.patch.dict(os.environ, {"SANDLOT_ROOT": str(tmp_path)}):
        found = failure(module, capfd, **whole)
    text = json.dumps(found)
    if "healthcheck" in given:
        # An option that nobody marked is shown in a message, as all are.
        assert "hunter2" in found["msg"]
    else:
        assert "hunter2" not in text
    assert "web" in text


@pytest.mark.parametrize("text", ["[{name: web, env: {A: hunter2}}]", "hunter2 x"])
def test_a_mapping_that_is_text_is_hidden(
    text: str, legacy: None, capfd: pytest.CaptureFixture[str]
) -> None:
    for given in ({"sandboxes": text}, {"sandboxes": [text]}, {"defaults": text}):
        found = failure("sandboxes", capfd, **given)
        assert "the value is a string, not a" in found["msg"] and "hunter2" not in json.dumps(found)


def test_a_bug_shows_no_value(
    legacy: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("ansible.legacy.sandbox")

    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 1)

    def action(module: Any, site: object) -> Json:
        # The kernel writes no core dump of the process, either.
        assert libc.prctl(PR_GET_DUMPABLE) == 0
        return {"x": int(module.params["secrets"][0]["value"])}

    engine = importlib.import_module("ansible.module_utils.sandlot.modules.sandbox")
    monkeypatch.setattr(engine, "action", action)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    given = {"name": "web", "secrets": [{"name": "a", "value": "hunter2"}]}
    with patch_module_args(given), pytest.raises(RuntimeError) as error:
        module.main()
    assert str(error.value).endswith("ValueError: invalid literal for int() with base 10: 'hidden'")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Ansible's part of a module writes to syslog."""
    lines: list[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda *words: lines.append(str(words[-1])))
    monkeypatch.setattr("ansible.module_utils.basic.has_journal", False)
    return lines


@pytest.mark.parametrize("image", ["b", 5], ids=["right", "wrong"])
def test_no_report_of_the_arguments_has_a_secret(
    image: object,
    legacy: None,
    lines: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    web = {"name": "web", "image": image, "env": {"PASSWORD": "hunter2", "DEBUG": "1"}}
    web["secrets"] = [{"name": "db", "value": "hunter2"}]
    web["files"] = [{"target": "/a", "content": "hunter2", "mode": "0600"}]
    found = failure("sandboxes", capfd, sandboxes=[web], defaults={"env": {"A": "hunter2"}})
    (shown,) = found["invocation"]["module_args"]["sandboxes"]
    assert (shown["name"], shown["env"]) == ("web", {"PASSWORD": "hidden", "DEBUG": "hidden"})
    (secret,), (file,) = shown["secrets"], shown["files"]
    assert (secret["name"], secret["value"]) == ("db", "hidden")
    assert (file["target"], file["content"], file["mode"]) == ("/a", "hidden", "0600")
    (line,) = lines
    assert re.search(r"'name': 'web'.*'PASSWORD': 'hidden'", line)
    assert "hunter2" not in line + json.dumps(found)


def test_nor_has_one_of_misspelled_defaults(
    legacy: None,
    lines: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    defaults = {"sercets": [{"name": "db", "value": "hunter2"}]}
    found = failure("sandboxes", capfd, sandboxes=[], defaults=defaults)
    assert "sercets" in found["msg"] and "sercets" in "".join(lines)
    assert "hunter2" not in "".join(lines) + json.dumps(found)


def test_ansible_alone_would_show_it(
    legacy: None, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The control of the test above."""
    basic = ansible.module_utils.basic
    with patch_module_args({"name": "web", "env": {"PASSWORD": "hunter2"}}):
        module = basic.AnsibleModule(argument_spec=arguments("sandbox"))
        with pytest.raises(SystemExit):
            module.exit_json()
    assert "hunter2" in lines[0] and "hunter2" in capfd.readouterr().out
