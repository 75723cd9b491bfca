# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The inventory that the plugin makes of what hosts answer; a fake takes the place of the hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins.loader import inventory_loader
from ansible.plugins.vars import host_group_vars
from ansible.utils.display import Display
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from sandlot_plugins.plugin_utils import transport

TOP = Path(__file__).resolve().parents[3]
HOSTS = "sandbox_hosts: {hosts: {alpha: {}, beta: {}}}\nothers: {hosts: {gamma: {}}}\n"
ALONE = "plugin: sandbox\ninventory: hosts.yml\n"


def record(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": "busybox",
        "state": "running",
        "labels": {},
        "addresses": ["10.77.0.2"],
        "published_ports": [],
        "health": None,
        **changes,
    }


class Fleet:
    """Hosts with their answers; ``asked`` is a file, as each host is asked by another process."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.answers: dict[str, Any] = {"alpha": [record("web")], "beta": [record("db")]}
        self.warnings: list[str] = []
        (top / "inv").mkdir()
        self.asked = top / "asked"
        self.write(hosts=HOSTS, sandboxes=ALONE)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.top / "inv" / f"{name}.yml").write_text(text)

    def read(self, *names: str, cache: bool = True) -> InventoryManager:
        self.warnings.clear()
        self.asked.write_text("")
        # Ansible keeps what it has found, as a run does not look again.
        host_group_vars.FOUND.clear()
        host_group_vars.NAK.clear()
        loader = DataLoader()
        loader.set_vault_secrets([("default", VaultSecret(b"open"))])
        sources = [str(self.top / "inv" / name) for name in names or ("sandboxes.yml",)]
        return InventoryManager(loader, sources, cache=cache)

    def answered(self) -> list[str]:
        return sorted(self.asked.read_text().split())


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet(tmp_path)

    class Transport:
        def __init__(self, host: str, variables: Mapping[str, Any], **passwords: str) -> None:
            self.host, self.variables, self.passwords = host, variables, passwords

        def run(self, arguments: Sequence[str], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
            assert arguments == ["list", "--format", "json"]
            with made.asked.open("a") as handle:
                via = self.variables.get("via") or self.passwords.get("become_password", "")
                handle.write(f"{self.host}={via}\n")
            answer = made.answers.get(self.host, [])
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, tuple) else (0, json.dumps(answer).encode(), b"")

        def close(self) -> None:
            pass

    monkeypatch.setattr(transport, "Transport", Transport)
    monkeypatch.setattr(
        Display, "warning", lambda self, msg, *more, **options: made.warnings.append(str(msg))
    )
    monkeypatch.setattr(
        Display,
        "error_as_warning",
        lambda self, msg, exception, **options: made.warnings.append(str(exception)),
        # Before ansible-core 2.19, these are warnings as others.
        raising=False,
    )
    inventory_loader.add_directory(str(TOP / "plugins/inventory"))
    yield made


def groups(inventory: InventoryManager) -> dict[str, list[str]]:
    known: dict[str, list[str]] = inventory.get_groups_dict()
    return known


def variables(inventory: InventoryManager) -> HostVars:
    manager = VariableManager(inventory._loader, inventory)
    return HostVars(inventory, manager, inventory._loader)


def test_sandboxes_are_hosts(fleet: Fleet) -> None:
    fleet.answers["alpha"] = [
        record("web", labels={"role": "web"}, health="healthy", published_ports=["80:80"]),
        record("off", state="created", addresses=[]),
    ]
    made = fleet.read()
    assert not fleet.warnings
    assert fleet.answered() == ["alpha=", "beta="]
    assert groups(made)["sandboxes"] == ["web@alpha", "off@alpha", "db@beta"]
    assert groups(made)["host_alpha"] == groups(made)["sandboxes"][:2]
    assert groups(made)["label_role_web"] == ["web@alpha"]
    assert groups(made)["state_created"] == ["off@alpha"]
    assert groups(made)["sandbox_hosts"] == ["alpha", "beta"]
    assert groups(made)["others"] == ["gamma"]
    found = variables(made)["web@alpha"]
    assert {
        key: found[key] for key in found if re.match("sandbox_|ansible_(connection|sandbox_)", key)
    } == {
        "ansible_connection": "sandbox",
        "ansible_sandbox_name": "web",
        "ansible_sandbox_host": "alpha",
        "sandbox_image": "busybox",
        "sandbox_state": "running",
        "sandbox_labels": {"role": "web"},
        "sandbox_addresses": ["10.77.0.2"],
        "sandbox_published_ports": ["80:80"],
        "sandbox_health": "healthy",
    }


def test_options_choose_hosts_and_states(fleet: Fleet) -> None:
    fleet.write(sandboxes=f"{ALONE}hosts: ['alpha', 'all:!beta']\nstates: [running]\n")
    fleet.answers["alpha"].append(record("off", state="created"))
    assert groups(fleet.read())["sandboxes"] == ["web@alpha"]
    assert fleet.answered() == ["alpha=", "gamma="]
    fleet.write(hosts="all: {hosts: {gamma: {}}}", sandboxes=ALONE)
    fleet.read()
    assert fleet.answered() == ["gamma="]


def test_earlier_sources_name_the_hosts(fleet: Fleet) -> None:
    fleet.write(sandboxes="plugin: sandbox\n", more="more: {hosts: {alpha: {via: more}}}")
    (fleet.top / "inv/group_vars").mkdir()
    (fleet.top / "inv/group_vars/sandbox_hosts.yml").write_text("via: '{{ group_names[-1] }}'\n")
    made = fleet.read("hosts.yml", "more.yml", "sandboxes.yml")
    assert fleet.answered() == ["alpha=more", "beta=sandbox_hosts"]
    assert groups(made)["sandboxes"] == ["web@alpha", "db@beta"]
    assert made.get_host("web@alpha").vars["inventory_file"].endswith("sandboxes.yml")
    # Sandboxes of one source are no hosts for the next one.
    fleet.write(two_sandboxes="plugin: sandbox\nhosts: all\n")
    assert groups(fleet.read("hosts.yml", "sandboxes.yml", "two_sandboxes.yml"))["all"] == [
        *("alpha", "beta", "gamma", "web@alpha", "db@beta")
    ]
    assert fleet.answered() == sorted(
        ["alpha=sandbox_hosts", "beta=sandbox_hosts"] * 2 + ["gamma="]
    )
    assert not fleet.warnings


def test_a_directory_may_hold_both(fleet: Fleet) -> None:
    fleet.write(sandboxes="plugin: sandbox\n")
    assert groups(fleet.read("."))["sandboxes"] == ["web@alpha", "db@beta"]
    fleet.write(sandboxes="plugin: sandbox\ninventory: .\n")
    assert groups(fleet.read())["sandboxes"] == ["web@alpha", "db@beta"]
    assert not fleet.warnings


def test_variables_beside_another_inventory_are_found(fleet: Fleet) -> None:
    """Vault, group_vars, host_vars, and their order of precedence."""
    other = fleet.top / "other"
    for directory in ("group_vars", "host_vars"):
        (other / directory).mkdir(parents=True)
    secret = VaultLib([("default", VaultSecret(b"open"))]).encrypt("secret: vaulted\n")
    files = {
        "hosts.yml": "sandbox_hosts: {hosts: {alpha: {}, beta: {}},"
        " vars: {a: file, b: file, c: file, d: file, secret: clear}}\n",
        "group_vars/all.yml": "a: all\nb: all\nc: all\n",
        "group_vars/sandbox_hosts.yml": "b: group\nc: group\nvia: '{{ secret }}'\n",
        "host_vars/alpha.yml": "c: host\n",
        "host_vars/beta.yml": secret.decode(),
    }
    for name, text in files.items():
        (other / name).write_text(text)
    fleet.write(sandboxes="plugin: sandbox\ninventory: ../other/hosts.yml\n")
    found = variables(fleet.read())["alpha"]
    expected = {"a": "all", "b": "group", "c": "host", "d": "file", "via": "clear"}
    assert {key: found[key] for key in expected} == expected
    assert fleet.answered() == ["alpha=clear", "beta=vaulted"]
    # As Ansible itself finds them.
    itself = variables(fleet.read("../other/hosts.yml"))["alpha"]
    assert {key: itself[key] for key in expected} == expected


def test_a_host_without_an_answer_is_a_warning(fleet: Fleet) -> None:
    problem = AnsibleConnectionFailure("host alpha can't be reached: \x1b]0;x\x07 refused")
    for answer, shown in (
        (problem, r"host alpha can't be reached: \\x1b\]0;x\\x07 refused"),
        ((2, b"", b"sandlot: no\x1b[2J\n"), r"with exit code 2: sandlot: no\\x1b\[2J"),
        ((0, b"<html>", b""), "its answer is not JSON; upgrade sandlot"),
        ((0, b'{"a": 1}', b""), "its answer is no list"),
    ):
        fleet.answers["alpha"] = answer
        assert groups(fleet.read())["sandboxes"] == ["db@beta"]
        assert len(fleet.warnings) == 1
        assert re.fullmatch(f"sandboxes of alpha are left out: .*{shown}.*", fleet.warnings[0])
    broken = [{"name": "bad", "state": "broken", "error": "no record"}, record("web")]
    fleet.answers["alpha"] = (1, json.dumps(broken).encode(), b"bad: no record")
    assert groups(fleet.read())["sandboxes"] == ["web@alpha", "db@beta"]
    assert fleet.warnings == ["alpha: sandbox bad is broken: no record; it is left out"]


def test_names_that_are_taken_are_refused(fleet: Fleet) -> None:
    fleet.write(
        hosts="sandbox_hosts: {hosts: {alpha: {}, beta: {}}}\n"
        "image_busybox: {hosts: {alpha: {}}}\n"
        "label_role_web: {vars: {http_port: 80}}\n"
        "web: {children: {label_role_web: {}}}\n"
        "label_role_db: {children: {sandbox_hosts: {}}}\n"
        "others: {hosts: {web@alpha: {}, state_running: {}}}\n"
    )
    fleet.answers["alpha"].append(record("front", labels={"role": "web"}))
    fleet.answers["beta"] = [record("db", labels={"role": "db"})]
    made = fleet.read()
    assert groups(made)["sandboxes"] == ["front@alpha", "db@beta"]
    # Groups that are declared without hosts are for sandboxes.
    assert variables(made)["front@alpha"]["http_port"] == 80
    assert groups(made)["web"] == ["front@alpha"]
    assert groups(made)["image_busybox"] == ["alpha"]
    assert groups(made)["label_role_db"] == ["alpha", "beta"]
    assert "state_running" not in groups(made)
    expected = ["web@alpha is left out", "group state_running", "group image_busybox"]
    for text in [*expected, "group label_role_db"]:
        assert len([x for x in fleet.warnings if text in x]) == 1, fleet.warnings
    assert len(fleet.warnings) == 4


def test_a_host_does_not_choose_other_groups(fleet: Fleet) -> None:
    """A label with the name of a group would give a sandbox its variables and plays."""
    keyed = "keyed_groups: [{key: sandbox_labels.group, prefix: '', separator: ''}]\n"
    fleet.write(sandboxes=f"{ALONE}{keyed}")
    fleet.answers["alpha"] = [
        record("evil", labels={"group": "others"}),
        record("good", labels={"group": "mine"}),
    ]
    made = fleet.read()
    assert groups(made)["others"] == ["gamma"]
    assert groups(made)["mine"] == ["good@alpha"]
    assert "no sandbox is put into group others" in fleet.warnings[0]


def test_a_host_moves_no_group_below_another(fleet: Fleet) -> None:
    """And breaks no inventory by a name that can't be one. The control is a group of its own."""
    options = "key: sandbox_labels, prefix: '', separator: '', parent_group: tiers"
    fleet.write(sandboxes=f"{ALONE}keyed_groups: [{{{options}}}]\n")
    names = ("others", "all", "tiers", "mine", "")
    fleet.answers["alpha"] = [
        record(f"box{number}", labels={name: ""}) for number, name in enumerate(names)
    ]
    made = fleet.read()
    assert groups(made)["others"] == ["gamma"]
    assert groups(made)["tiers"] == ["box2@alpha", "box3@alpha"]
    assert [group.name for group in made.groups["tiers"].child_groups] == ["mine"]
    assert len(groups(made)["sandboxes"]) == len(names) + 1
    texts = ("group others", "group all", "without a name")
    assert all(any(text in x for x in fleet.warnings) for text in texts), fleet.warnings


def test_constructed_groups_and_variables(fleet: Fleet) -> None:
    fleet.write(
        sandboxes=f"{ALONE}"
        "compose: {url: \"'http://' ~ sandbox_addresses[0]\"}\n"
        "groups: {others: sandbox_labels.tier is defined}\n"
        "keyed_groups: [{key: sandbox_labels.tier, prefix: tier, parent_group: tiers}]\n"
        "strict: false\n"
    )
    fleet.answers["alpha"] = [record("web", labels={"tier": "front"})]
    made = fleet.read()
    assert variables(made)["web@alpha"]["url"] == "http://10.77.0.2"
    assert groups(made)["others"] == ["gamma", "web@alpha"]
    assert groups(made)["tier_front"] == groups(made)["tiers"] == ["web@alpha"]


def test_text_of_a_host_is_no_template(fleet: Fleet, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"{{{{ lookup('pipe', 'touch {mark}') }}}}{{% for x in 'a' %}}{{% endfor %}}"
    composed = "compose: {joined: \"'a' ~ sandbox_labels.x\", plain: sandbox_labels.x}\n"
    fleet.write(sandboxes=f"{ALONE}{composed}keyed_groups: [{{key: sandbox_labels.x}}]\n")
    fleet.answers["alpha"] = [record("web", labels={"x": text, text: "y"})]
    found = variables(fleet.read())["web@alpha"]
    assert found["sandbox_labels"] == {"x": text, text: "y"}
    assert (found["joined"], found["plain"]) == (f"a{text}", text)
    assert not mark.exists()
    # The same text in a file of the user is a template.
    fleet.write(hosts=f"sandbox_hosts: {{hosts: {{alpha: {{y: {json.dumps(text)}}}, beta: {{}}}}}}")
    assert variables(fleet.read())["alpha"]["y"] == ""
    assert mark.exists()


def test_interpreter_and_user_of_all_hosts_are_not_those_of_sandboxes(fleet: Fleet) -> None:
    name, group_vars = "ansible_python_interpreter", fleet.top / "inv/group_vars"
    default = C.config.get_config_value("INTERPRETER_PYTHON")
    group_vars.mkdir()
    fleet.write(hosts=f"{HOSTS}all: {{vars: {{{name}: /opt/python}}}}\n")
    found = variables(fleet.read())
    assert found["alpha"][name] == "/opt/python"
    assert found["web@alpha"][name] == default
    (group_vars / "all.yml").write_text(f"{name}: /srv/python\n")
    found = variables(fleet.read())
    assert (found["alpha"][name], found["web@alpha"][name]) == ("/srv/python", default)
    (group_vars / "host_alpha.yml").write_text(f"{name}: /usr/bin/python3.13\n")
    found = variables(fleet.read())
    assert found["web@alpha"][name] == "/usr/bin/python3.13"
    assert found["db@beta"][name] == default
    (group_vars / "all.yml").write_text("ansible_user: debian\n")
    found = variables(fleet.read())
    assert [found[host]["ansible_user"] for host in ("alpha", "web@alpha")] == ["debian", ""]
    (group_vars / "all.yml").unlink()
    fleet.write(hosts=HOSTS)
    assert name not in variables(fleet.read())["db@beta"]


def test_hosts_of_the_cache_are_not_asked(fleet: Fleet) -> None:
    cache = fleet.top / "cache"
    options = f"cache: true\ncache_plugin: jsonfile\ncache_connection: {cache}\n"
    fleet.write(sandboxes=f"{ALONE}{options}")
    fleet.answers["beta"] = AnsibleConnectionFailure("down")
    fleet.read()
    assert fleet.answered() == ["alpha=", "beta="]
    fleet.answers.update(alpha=[], beta=[record("db", labels={"x": "{{ 1 + 1 }}"})])
    # A host that did not answer is asked again.
    assert groups(fleet.read())["sandboxes"] == ["web@alpha", "db@beta"]
    assert fleet.answered() == ["beta="]
    found = variables(fleet.read())["db@beta"]["sandbox_labels"]
    assert fleet.answered() == [] and found == {"x": "{{ 1 + 1 }}"}
    assert groups(fleet.read(cache=False))["sandboxes"] == ["db@beta"]
    assert fleet.answered() == ["alpha=", "beta="]
    # What the cache holds is checked as what a host says.
    (path,) = cache.iterdir()
    path.write_text(path.read_text().replace("db", "d/b"))
    assert groups(fleet.read())["sandboxes"] == []
    path.write_text("[1]")
    assert groups(fleet.read())["sandboxes"] == ["db@beta"]
    fleet.write(hosts="sandbox_hosts: {hosts: {alpha: {}}}\n")
    assert groups(fleet.read())["all"] == ["alpha"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plugin: sandbox\n", "there is no host to ask for sandboxes; write inventory: hosts.yml"),
        (f"{ALONE}hosts: nobody\n", "option hosts: 'nobody' matches no host"),
        (
            "plugin: sandbox\ninventory: none.yml\n",
            r"option inventory: .*/none\.yml does not exist",
        ),
        ("plugin: sandbox\ninventory: bad.yml\n", r"option inventory: .*/bad\.yml can't be read"),
        (f"{ALONE}forks: 0\n", "option forks: 0 is too small; write a number above 0"),
        (f"{ALONE}timeout: -1\n", "option timeout: -1 is too small"),
        (f"{ALONE}timeout: soon\n", "timeout"),
        (f"{ALONE}states: [runing]\n", r"Invalid value \['runing'\] for config 'states'"),
        ("plugin: sandbox\ninventory: taken.yml\n", "hosts in a group sandboxes, or a host"),
    ],
)
def test_errors_name_option_value_and_remedy(fleet: Fleet, text: str, problem: str) -> None:
    fleet.write(sandboxes=text, bad="a: [", taken="sandboxes: {hosts: {alpha: {}}}")
    assert "sandboxes" not in [*fleet.read().groups] or "taken" in text
    assert any(re.search(problem, warning) for warning in fleet.warnings), fleet.warnings
    assert fleet.answered() == []


def test_the_plugin_declines_files_of_other_names(fleet: Fleet) -> None:
    plugin = inventory_loader.get("sandbox")
    names = ("sandboxes.yml", "my-sandbox.yaml", "hosts.yml", "sandboxes.json", "none/sandbox.yml")
    for name in names[:4]:
        (fleet.top / name).touch()
    assert [plugin.verify_file(str(fleet.top / name)) for name in names] == [
        *(True, True, False, False, False)
    ]


def test_a_file_may_hold_the_password_for_root(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet.top / "password").write_text("open\n")
    monkeypatch.setenv("ANSIBLE_BECOME_PASSWORD_FILE", str(fleet.top / "password"))
    fleet.read()
    assert fleet.answered() == ["alpha=open", "beta=open"]


def test_no_host_is_needed_to_ask_this_machine(fleet: Fleet) -> None:
    fleet.write(sandboxes="plugin: sandbox\nhosts: localhost\n")
    fleet.answers["localhost"] = [record("web")]
    made = fleet.read()
    assert groups(made)["host_localhost"] == ["web@localhost"]
    assert variables(made)["web@localhost"]["ansible_sandbox_host"] == "localhost"
