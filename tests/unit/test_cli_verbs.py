# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The rows of the verbs, the files that a host needs for them, and the manual page."""

from __future__ import annotations

import ast
import importlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sandlot.cli import manual
from sandlot.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "module_utils/sandlot"
WRITES_MANUAL = (
    "PYTHONPATH=module_utils python3 -c \"from sandlot.cli import main; main(['manual'])\" "
    "> docs/sandlot.8"
)


def test_every_verb_is_there() -> None:
    for verb in VERBS:
        module, _, function = verb.run.partition(".")
        assert callable(getattr(importlib.import_module(f"sandlot.cli.{module}"), function))


# -- files of a host


def imports(path: Path) -> Iterator[Path]:
    """Modules of the engine that a file imports by name, in any branch, as Ansible looks for."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        for target in (place, *(place / alias.name for alias in node.names)):
            for file in (target.with_suffix(".py"), target / "__init__.py"):
                if file.is_file():
                    yield file


def sent(root: Path) -> set[Path]:
    """All files that Ansible sends along with one, packages on the way included."""
    waiting, found = [root], set()
    while waiting:
        for path in imports(waiting.pop()):
            package = path.parent / "__init__.py"
            new = {path, package, package.parent.parent / "__init__.py"} - found
            new = {each for each in new if each.is_file() and ENGINE in each.parents}
            found |= new
            waiting += new
    return found


def test_a_host_gets_every_file_of_the_engine() -> None:
    assert set(ENGINE.rglob("*.py")) - sent(ROOT / "library/sandbox_host.py") == set()


def test_main_imports_the_modules_of_the_rows() -> None:
    named = {path.stem for path in imports(ENGINE / "cli/main.py") if path.parent.name == "cli"}
    assert named - {"__init__", "output", "verbs"} == {verb.run.partition(".")[0] for verb in VERBS}


# -- the manual page


def test_the_manual_page_is_that_of_the_table() -> None:
    written = (ROOT / "docs/sandlot.8").read_text()
    assert written == manual.page(), f"run in the checkout: {WRITES_MANUAL}"


def test_the_command_of_the_message_prints_the_manual_page() -> None:
    command = WRITES_MANUAL.rpartition(" > ")[0]
    assert command in (ROOT / "docs/extending.md").read_text()
    shell = ["sh", "-c", command]
    run = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == manual.page()
