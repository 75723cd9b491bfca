# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What somebody meets who clones the tree, runs make and reads what Ansible prints."""

from __future__ import annotations

import configparser
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from sandlot.errors import HostError, SpecError
from sandlot.host import facts, install, packages, readiness
from sandlot.host.install import Outcome
from sandlot.site import Site

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
# nftables is installed disabled, the others are part of each Debian.
HARMLESS = {"nftables.service", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service"}


def make(directory: Path, *words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Without the rest of the tree, so that no rule gets further than its checks."""
    for path in (ROOT / "Makefile", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, directory)
        (directory / path.name).chmod(0o644)
    directory.chmod(0o555 if os.geteuid() else 0o755)
    try:
        return subprocess.run(
            ["make", *words],
            cwd=directory,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        directory.chmod(0o755)


@pytest.mark.parametrize("name", ["a'b", "a$b", "a;b", "a(b", "a=b"])
def test_a_path_that_scripts_would_have_to_quote_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = make(tmp_path / name, "deploy")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f'the path "{tmp_path}/{name}" has a character that scripts would have to quote' in line
    assert "clone sandlot into one of letters, digits, spaces and" in line


@pytest.mark.parametrize("name", ["größe", "a-b_c.d+e@f,g~", "my own projects"])
def test_a_path_of_other_characters_is_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = make(tmp_path / name, "help")
    assert (done.returncode, done.stderr) == (0, "") and "deploy " in done.stdout


@pytest.mark.parametrize("target", ["deploy", "test", "lint", "unit", "collection"])
def test_a_checkout_of_somebody_else_is_named(target: str) -> None:
    """Directories of pytest are closed to other users."""
    root = os.geteuid() == 0
    directory = Path("/var/tmp") / f"sandlot-newcomer-{os.getpid()}"
    directory.mkdir()
    try:
        done = make(directory, target, user=NOBODY if root else None)
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 2
    line = done.stderr.splitlines()[0]
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert line.startswith(f"{directory} belongs to {owner}: run make as {owner}, or clone sandlot")


def test_tests_install_no_service() -> None:
    """A package of Debian enables and starts what it has, on all addresses."""
    rows = re.findall(
        r"^(?:TEST|VM|NEWCOMER)_PACKAGES := (.*)$", (ROOT / "Makefile").read_text(), re.M
    )
    packages = " ".join(rows).split()
    assert len(rows) == 3 and "skopeo" in packages
    command = ["dpkg-query", "--listfiles", *packages]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    units = [Path(name) for name in listed.splitlines() if "/systemd/system/" in name]
    enabled = {
        path.name for path in units if path.is_file() and "\n[Install]\n" in path.read_text()
    }
    assert enabled <= HARMLESS
    scripts = {line for line in listed.splitlines() if line.startswith("/etc/init.d/")}
    # At a boot, it forgets who has given a password.
    assert scripts <= {"/etc/init.d/sudo"}


def test_tests_leave_the_busybox_that_a_machine_has(tmp_path: Path) -> None:
    """To install one of Debian's two packages removes the other."""
    done = make(tmp_path, "--dry-run", "test-packages")
    installed = re.findall(r"for package in (.*?); do ", done.stdout)[-1].split()
    assert "skopeo" in installed and "busybox-static" not in installed
    assert ("busybox" in installed) is not Path("/bin/busybox").exists()


def test_ansible_prints_what_matters() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "ansible.cfg")
    defaults = dict(parser["defaults"])
    assert defaults["interpreter_python"] == "auto_silent"
    assert defaults["display_skipped_hosts"] == "false"


PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
IMPORT = "ansible.builtin.import_role"


def tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a playbook, with those of its roles."""
    (play,) = yaml.safe_load(path.read_text())
    listed = []
    for task in play["tasks"]:
        if IMPORT not in task:
            listed.append(task)
            continue
        assert task[IMPORT]["rolespec_validate"] is False
        file = ROOT / "roles" / task[IMPORT]["name"] / "tasks"
        listed += yaml.safe_load(
            (file / f"{task[IMPORT].get('tasks_from', 'main')}.yml").read_text()
        )
    return listed


@pytest.mark.parametrize(
    # An audit goes on after a failure, and ends with its verdict.
    "path",
    [path for path in PLAYBOOKS if path.stem != "audit_sandbox"],
    ids=lambda path: path.stem,
)
def test_a_play_has_nothing_to_skip_and_ends_with_what_runs(path: Path) -> None:
    listed = tasks(path)
    # A teardown says beforehand what it removes.
    assert len(listed) <= {"teardown_sandbox": 5, "update_sandbox": 7}.get(path.stem, 3)
    for task in listed:
        assert not {"block", "ignore_errors"}.intersection(task)
        # An update leaves hosts alone, and includes tasks for each batch.
        assert path.stem == "update_sandbox" or not [
            key for key in task if "include" in key or key in ("loop", "when")
        ]
    last = listed[-1]
    assert last["run_once"] and last["ansible.builtin.debug"]["msg"]


class Answers:
    """Stands for the modules that an action plugin runs."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, dict[str, Any], str]] = []

    def __call__(self, **call: Any) -> dict[str, Any]:
        python = call["task_vars"].get("ansible_python_interpreter", "")
        options = {key: x for key, x in call["module_args"].items() if key != "_engine"}
        self.calls.append((call.get("module_name") or "", options, python))
        return self.answers.pop(0)


def act(
    monkeypatch: pytest.MonkeyPatch,
    plugin: str,
    answers: Answers,
    arguments: dict[str, Any],
    *,
    check: bool = False,
    **variables: Any,
) -> dict[str, Any]:
    path = ROOT / f"plugins/action/{plugin}.py"
    spec = importlib.util.spec_from_file_location(f"action.{plugin}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    action = object.__new__(module.ActionModule)
    action._task = SimpleNamespace(
        action=f"sandlot.sandlot.{plugin}", args=arguments, async_val=0, check_mode=check
    )
    shell = SimpleNamespace(tmpdir=None)
    action._connection = SimpleNamespace(has_native_async=False, _shell=shell)
    action._execute_module = answers
    action._remove_tmp_path = lambda path: None
    result: dict[str, Any] = action.run(None, variables)
    return result


LACKING = {"missing_packages": ["nftables"], "actions": ["runtime: install"], "changed": True}
WHOLE = {"missing_packages": [], "actions": [], "changed": False}


def test_missing_packages_are_installed_in_the_same_task(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(LACKING, {"changed": True}, WHOLE)
    done = act(monkeypatch, "sandbox_host", answers, {"packages": "install"})
    assert done["changed"] and done["actions"] == ["runtime: install", "packages: install nftables"]
    names, options, _ = zip(*answers.calls, strict=True)
    carrier = "sandlot.sandlot.sandbox_info"
    assert names == (carrier, "ansible.builtin.apt", carrier)
    assert options[1]["name"] == ["nftables"]
    assert options[2] == {"packages": "require"}


@pytest.mark.parametrize(
    ("choice", "check"), [("install", True), ("require", False), ("report", False)]
)
def test_packages_are_not_installed_unasked(
    monkeypatch: pytest.MonkeyPatch, choice: str, check: bool
) -> None:
    answers = Answers(LACKING)
    assert act(monkeypatch, "sandbox_host", answers, {"packages": choice}, check=check) == LACKING
    assert len(answers.calls) == 1


def test_packages_that_can_not_be_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(LACKING, {"failed": True, "msg": "no network"})
    done = act(monkeypatch, "sandbox_host", answers, {"packages": "install"})
    assert done["failed"]
    assert done["msg"] == (
        "the Debian packages nftables can't be installed: no network; install them, or what has"
        " the same programs on another system"
    )


def test_a_check_tells_of_packages_and_a_requirement_refuses() -> None:
    outcome = Outcome(False, [])
    assert packages.due(outcome, ["nftables"], "report", check=True) == outcome
    assert packages.due(outcome, [], "require", check=False) == outcome
    due = packages.due(outcome, ["nftables"], "install", check=True)
    assert due == Outcome(True, ["packages: install nftables"])
    with pytest.raises(HostError, match="missing Debian packages: nftables; install them, or let"):
        packages.due(outcome, ["nftables"], "require", check=True)


NEEDED = {"host_needed": True}
CONVERGED = {"changed": False, "actions": ["web: start"], "summary": "runs web"}
WITH_HOST = {"host": {"packages": "install"}, "sandboxes": []}


def test_a_ready_host_takes_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(CONVERGED)
    assert act(monkeypatch, "sandboxes", answers, WITH_HOST) == CONVERGED
    assert [options for _, options, _ in answers.calls] == [WITH_HOST]


def test_another_host_is_prepared_in_the_same_task(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(NEEDED, LACKING, {"changed": True}, WHOLE, CONVERGED)
    done = act(monkeypatch, "sandboxes", answers, WITH_HOST)
    installed = ["runtime: install", "packages: install nftables"]
    assert done["changed"] and done["summary"] == "runs web"
    assert done["actions"] == [*installed, "web: start"]
    assert done["host"] == {"missing_packages": [], "actions": installed, "changed": True}
    first, host, _, again, last = [options for _, options, _ in answers.calls]
    assert (first, host, again) == (WITH_HOST, {"packages": "install"}, {"packages": "require"})
    assert last == {"sandboxes": []}


def test_a_host_that_can_not_be_prepared_gets_no_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = {"failed": True, "msg": "missing Debian packages: nftables"}
    answers = Answers(NEEDED, failure)
    assert act(monkeypatch, "sandboxes", answers, {"host": {"packages": "require"}}) == failure
    assert len(answers.calls) == 2


def test_what_failed_after_the_host_has_changed_is_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure = {"failed": True, "changed": False, "msg": "no such image"}
    prepared = {**WHOLE, "changed": True, "actions": ["runtime: install"]}
    answers = Answers(NEEDED, {**prepared, "kernel": "6.1.0"}, failure)
    done = act(monkeypatch, "sandboxes", answers, {"host": {}})
    assert done["failed"] and done["changed"] and done["actions"] == ["runtime: install"]
    # Ansible prints the whole result of a failure.
    assert done["host"] == prepared


def test_a_deploy_removes_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsibleActionFail, match="state is no option here"):
        act(monkeypatch, "sandboxes", Answers(), {"host": {"state": "absent"}})


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("choice", packages.CHOICES)
def test_a_host_is_ready_when_sandbox_host_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, choice: str, changed: bool
) -> None:
    monkeypatch.setattr(install, "present", lambda _site, check: Outcome(changed, []))
    monkeypatch.setattr(facts, "python", lambda: {"pyroute2": True})
    monkeypatch.setattr(facts, "missing_packages", lambda *_: lacking)
    for lacking in ([], ["nftables"]):
        found = readiness.missing_packages(Site(""), "host", {"packages": choice})
        is_ready = not changed and (choice == "report" or not lacking)
        assert found == (lacking if is_ready else None)


def test_options_of_a_host_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"host\.package: 'package' is not an option.*packages\?"):
        readiness.missing_packages(Site(""), "host", {"package": "install"})
    with pytest.raises(SpecError, match=r"host\.image_sources\[0\]: 'bsybox' is not a choice"):
        readiness.missing_packages(Site(""), "host", {"image_sources": ["bsybox"]})


@pytest.mark.parametrize("plugin", ["sandbox_host", "sandbox_rootfs", "sandboxes"])
def test_a_chosen_python_is_no_warning_and_a_named_one_stays(
    monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    def value(name: str, variables: dict[str, Any]) -> str:
        assert name == "INTERPRETER_PYTHON"
        return str(variables.get("ansible_python_interpreter", "auto"))

    monkeypatch.setattr(constants.config, "get_config_value", value)
    answers = Answers({}, {})
    act(monkeypatch, plugin, answers, {})
    act(monkeypatch, plugin, answers, {}, ansible_python_interpreter="/usr/bin/python3.9")
    assert [python for _, _, python in answers.calls] == ["auto_silent", "/usr/bin/python3.9"]


def test_the_inventory_of_the_readme_names_its_user() -> None:
    (inventory,) = re.findall(
        r"^```yaml\n(# inventory/hosts.yml\n.*?)^```$",
        (ROOT / "README.md").read_text(),
        re.M | re.S,
    )
    assert yaml.safe_load(inventory)["sandbox_hosts"]["vars"]["ansible_user"]


@pytest.mark.parametrize(
    ("variables", "want"),
    [
        ({}, "C.UTF-8"),
        ({"LC_ALL": "C"}, "C.UTF-8"),
        ({"LC_ALL": "xx_XX.UTF-8"}, "C.UTF-8"),
        ({"LANG": "C.UTF-8"}, ""),
    ],
)
def test_ansible_gets_a_locale_that_it_takes(
    tmp_path: Path, variables: dict[str, str], want: str
) -> None:
    """It takes only UTF-8; a login over SSH may bring the name of a locale that is not there."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", "--eval", 'shown: ; @echo "[$${LC_ALL-}]"', "shown"]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **variables}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"[{want}]\n"
