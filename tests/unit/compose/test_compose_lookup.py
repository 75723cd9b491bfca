# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The lookup plugin as Ansible calls it: files, env files, options, warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, lookup_loader
from ansible.utils.display import Display

PLUGINS = Path(__file__).resolve().parents[3] / "plugins/lookup"
FILE = "services: {web: {image: 'app:${TAG}', labels: {a: '${A:-none}'}}}\n"
Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    init_plugin_loader()
    lookup_loader.add_directory(str(PLUGINS))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project "wiki"; variables of the controller named here are not set."""
    for name in ("TAG", "A", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "Wiki.1"
    directory.mkdir()
    (directory / "compose.yml").write_text(FILE)
    (directory / ".env").write_text("TAG=1\nA=file\n")
    return directory


def looked_up(*terms: str, top: Path | None = None, **options: Any) -> Json:
    loader = DataLoader()
    if top:
        loader.set_basedir(str(top))
    plugin = lookup_loader.get("compose", loader=loader, templar=None)
    (result,) = plugin.run(list(terms), {}, **options)
    return dict(result)


def _web(result: Json) -> Json:
    return dict(result["sandbox_instances"][0])


def test_a_file_with_its_env_file(project: Path) -> None:
    result = looked_up(str(project / "compose.yml"))
    assert _web(result)["image"] == "app:1"
    assert _web(result)["labels"] == {"a": "file"}
    assert [network["name"] for network in result["sandbox_networks"]] == ["wiki1_default"]


def test_a_relative_path_starts_at_the_playbook(project: Path) -> None:
    assert looked_up("Wiki.1/compose.yml", top=project.parent) == looked_up(str(project))


def test_a_directory_with_an_override_file(project: Path) -> None:
    (project / "compose.override.yml").write_text("services: {web: {mem_limit: 64m}}\n")
    assert _web(looked_up(str(project)))["memory"] == "64m"
    assert "memory" not in _web(looked_up(str(project / "compose.yml")))


def test_the_environment_wins_and_the_option_over_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "2")
    assert _web(looked_up(str(project)))["image"] == "app:2"
    assert _web(looked_up(str(project), env={"TAG": 3}))["image"] == "app:3"


def test_other_env_files(project: Path) -> None:
    (project / "other.env").write_text("TAG=5\n")
    result = looked_up(str(project), env_file=["other.env"], project="mine")
    assert (_web(result)["image"], _web(result)["labels"]) == ("app:5", {"a": "none"})
    assert [network["name"] for network in result["sandbox_networks"]] == ["mine_default"]
    with pytest.raises(AnsibleLookupError, match="gone.env: can't be read as an env file"):
        looked_up(str(project), env_file=["gone.env"])


def test_a_file_with_a_name_of_its_own(project: Path) -> None:
    (project / "forum.yml").write_text(FILE)
    result = looked_up(str(project / "forum.yml"))
    assert [network["name"] for network in result["sandbox_networks"]] == ["forum_default"]


def test_warnings_are_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(Display, "warning", lambda self, line, **dummy: lines.append(line))
    (project / ".env").write_text("")
    with pytest.raises(AnsibleLookupError, match="'app:' has an invalid tag"):
        looked_up(str(project))
    place = f"{project}/compose.yml:1: services.web.image"
    assert lines == [f"{place}: the variable TAG is not set: it is empty"]


def test_errors_are_ansible_errors(project: Path) -> None:
    (project / "compose.yml").write_text("services: {web: {imgae: a}}\n")
    with pytest.raises(AnsibleLookupError, match=r"compose.yml:1: services.web.imgae: .* image\?"):
        looked_up(str(project))
    with pytest.raises(AnsibleLookupError, match="is not a file of the controller"):
        looked_up(str(project / "gone.yml"))
    with pytest.raises(AnsibleLookupError, match=r"has none of compose.yaml, compose.yml"):
        looked_up(str(project.parent))
    with pytest.raises(AnsibleLookupError, match="no Compose file is named"):
        looked_up()


@pytest.mark.parametrize("value", [None, True, ["s3cret"]])
def test_a_variable_that_is_not_text_is_refused_without_its_value(
    project: Path, value: object
) -> None:
    with pytest.raises(AnsibleLookupError, match=r"option env\['A'\] is not text; write") as caught:
        looked_up(str(project), env={"A": value})
    assert "s3cret" not in str(caught.value)
