# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The tree itself: headers, sizes, links, and documentation that can be followed."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HEADER = (
    "SPDX-License-Identifier: GPL-3.0-or-later",
    "Copyright: the sandlot developers",
)
CODE = (".py", ".sh", ".yml", ".yaml", ".toml", ".cfg", ".txt", "")
# The licence is its own header; links have none; git reads .gitignore only.
BARE = ("LICENSE", ".gitignore")
LONGEST_FILE = 500
# Tests hold tables of cases.
LONGEST_TEST_FILE = 700
LONGEST_FUNCTION = 80
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/testing.md")


def _files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in names.split("\0") if name)
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


FILES = _files()
SOURCES = [path for path in FILES if path.suffix in CODE and path.name not in BARE]
PYTHON = [path for path in FILES if path.suffix == ".py"]
SHIPPED = [path for path in PYTHON if ROOT / "tests" not in path.parents]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_header(path: Path) -> None:
    head = path.read_text().splitlines()[:6]
    assert [line for line in HEADER if not any(line in found for found in head)] == []


def _documentation(tree: ast.Module) -> int:
    """Lines of DOCUMENTATION, EXAMPLES and RETURN, which don't count as code."""
    blocks = (node for node in tree.body if isinstance(node, ast.Assign))
    return sum(
        (node.end_lineno or 0) - node.lineno + 1
        for node in blocks
        if isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    )


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_file_length(path: Path) -> None:
    text = path.read_text()
    limit = LONGEST_FILE if path in SHIPPED else LONGEST_TEST_FILE
    assert len(text.splitlines()) - _documentation(ast.parse(text)) <= limit


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_function_length(path: Path) -> None:
    assert [name for name, length in _functions(path) if length > LONGEST_FUNCTION] == []


def test_functions_are_short_on_the_whole() -> None:
    engine = [path for path in PYTHON if "module_utils" in path.parts]
    lengths = sorted(length for path in engine for _, length in _functions(path))
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[len(lengths) * 9 // 10] < 40


@pytest.mark.parametrize(
    "path", [path for path in PYTHON if "module_utils" in path.parts], ids=_name
)
def test_engine_knows_no_ansible(path: Path) -> None:
    assert not re.search(r"^\s*(from|import) ansible\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_no_catch_all(path: Path) -> None:
    caught = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert caught == []


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_no_shell(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(key.arg == "shell" for call in calls for key in call.keywords)


def test_plugins_link_to_the_same_code() -> None:
    assert (ROOT / "plugins/modules").resolve() == ROOT / "library"
    assert (ROOT / "plugins/module_utils").resolve() == ROOT / "module_utils"


def test_every_module_is_in_the_action_group() -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    modules = sorted(path.stem for path in (ROOT / "library").glob("*.py"))
    assert runtime["action_groups"]["sandbox"] == modules


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_role_has_all_its_files(role: str) -> None:
    for name in ("tasks/main.yml", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml"):
        assert (ROOT / "roles" / role / name).is_file()


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_role_defaults_are_the_documented_ones(role: str) -> None:
    specs = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    defaults = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items()} == defaults


def _blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[list[str]]:
    for document in DOCUMENTS:
        for block in _blocks(document, "sh"):
            for line in block.splitlines():
                yield line.partition("#")[0].split()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\(([^):#]+)\)", (ROOT / document).read_text())
    assert [
        target for target in targets if not (ROOT / document).parent.joinpath(target).exists()
    ] == []


def test_documented_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {words[1] for words in _commands() if words[:1] == ["make"]}
    assert asked
    assert asked <= targets


def test_documented_playbooks_exist() -> None:
    asked = {
        word
        for words in _commands()
        if words[:1] == ["ansible-playbook"]
        for word in words
        if word.endswith(".yml") and not word.startswith("inventory/")
    }
    assert asked
    assert [name for name in asked if not (ROOT / name).is_file()] == []


def _variables(text: str) -> dict[str, Any]:
    data = yaml.safe_load(text)
    found: dict[str, Any] = data.get("sandbox_hosts", {}).get("vars", data)
    return found


INVENTORIES = {
    "README.md": _blocks("README.md", "yaml")[0],
    **{
        _name(path): path.read_text()
        for path in sorted((ROOT / "inventory").glob("*/*_vars/*.yml"))
    },
}


@pytest.mark.parametrize("source", INVENTORIES)
def test_inventory_is_valid(source: str) -> None:
    from sandlot.spec import normalise

    variables = _variables(INVENTORIES[source])
    defaults = variables.get("sandbox_defaults", {"image": "busybox"})
    names = [
        normalise(instance, defaults=defaults).name for instance in variables["sandbox_instances"]
    ]
    assert names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"\b((?:tests|playbooks|docs)/[\w/.-]+\.(?:py|yml|md))\b", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_readme_inventory_is_short() -> None:
    assert len(INVENTORIES["README.md"].splitlines()) <= 22


def test_readme_names_every_variable() -> None:
    readme = (ROOT / "README.md").read_text()
    specs = [
        yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
        for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
    ]
    names = {name for options in specs for name in options} - {"sandbox_recreate"}
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []


def test_named_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", (ROOT / "docs" / "testing.md").read_text())
    assert named
    assert [f"{p}::{n}" for p, n in named if f"def {n}(" not in (ROOT / p).read_text()] == []


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by it (its import mode "prepend")."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []
