# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The tree itself: headers, sizes and links."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Iterator

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
LONGEST_FUNCTION = 60


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


def test_programs_are_started_where_failures_are_seen() -> None:
    """kernel/program.py refuses to run a program whose exit code would be lost."""
    starters = {"run", "Popen", "call", "check_call", "check_output", "system", "popen"}
    found = {
        _name(path)
        for path in SHIPPED
        if "module_utils" in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", "") in ("subprocess", "os")
        and node.func.attr in starters
    }
    assert found == {"module_utils/sandlot/kernel/program.py"}


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_no_shell(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(key.arg == "shell" for call in calls for key in call.keywords)


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_no_definition_in_one_line(path: Path) -> None:
    """ansible-test of ansible-core before 2.19 refuses what ruff makes of a body of dots."""
    assert not re.findall(r"^ *def .*: \.\.\.$", path.read_text(), re.M)


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
    entries = specs["argument_specs"].values()
    options = {name: option for entry in entries for name, option in entry["options"].items()}
    assert {name: option["default"] for name, option in options.items()} == defaults


@pytest.mark.parametrize(
    "target", ["integration", "molecule", "test-vm", "newcomer", "bench", "sweep"]
)
def test_targets_find_the_systems_tools(target: str) -> None:
    """Debian's PATH of an ordinary user has no sbin, where nft is."""
    command = ["make", "--dry-run", "--always-make", target]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    as_root = [line for line in run.stdout.splitlines() if "env PATH=" in line]
    assert as_root and all(":/usr/sbin:/sbin" in line for line in as_root)


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by it (its import mode "prepend")."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []
