# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The README of each role says what its argument spec says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
import document_roles  # noqa: E402


@pytest.mark.parametrize("role", document_roles.ROLES, ids=lambda role: role.name)
def test_readme_is_generated(role: Path) -> None:
    written = (role / "README.md").read_text()
    assert written == document_roles.readme(role), "run tests/document_roles.py"


@pytest.mark.parametrize("role", document_roles.ROLES, ids=lambda role: role.name)
def test_modules_of_sandlot_run_in_the_environment_of_the_inventory(role: Path) -> None:
    """Also in a play of the user's own, which has no environment."""
    tasks = [
        task for path in (role / "tasks").glob("*.yml") for task in yaml.safe_load(path.read_text())
    ]
    modules = [task for task in tasks if any(key.startswith("sandbox") for key in task)]
    assert modules
    assert {task.get("environment") for task in modules} == {"{{ sandbox_environment }}"}
