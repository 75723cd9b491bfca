# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compose files and the variables, warnings or errors that they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compose_cases import FIRST, cases, converted, subjects, usual
from sandlot_plugins.plugin_utils.compose import ComposeError

Json = dict[str, Any]


def rows() -> list[Any]:
    return [
        pytest.param(row.values[0], id=f"{subject}-{row.id}")
        for subject in subjects()
        for row in cases(subject)
    ]


@pytest.mark.parametrize("case", rows())
def test_case(case: Json, tmp_path: Path) -> None:
    wanted = {"expected", "result", "error", "warnings"} & set(case)
    assert wanted, "the case expects nothing"
    if "error" in case:
        with pytest.raises(ComposeError) as caught:
            converted(case, tmp_path)
        assert_place(str(caught.value), case, tmp_path)
        return
    result, warnings = converted(case, tmp_path)
    if "result" in case:
        assert result == filled(case["result"], tmp_path)
    if "expected" in case:
        assert usual(result["sandbox_instances"][0]) == filled(case["expected"], tmp_path)
    shown = [line.replace(f"{tmp_path}/", "") for line in warnings]
    assert shown == case.get("warnings", [])


def assert_place(message: str, case: Json, directory: Path) -> None:
    """An error is one line with a file, a line, a path of keys and a remedy."""
    shown = message.replace(f"{directory}/", "")
    assert case["error"] in shown
    assert "\n" not in message
    assert "; " in message or "is not YAML" in message
    if "line" in case:
        line = case["line"] if "file" in case else case["line"] + FIRST - 1
        assert shown.startswith(f"{case.get('where', 'compose.yml')}:{line}: "), shown


def filled(value: Any, directory: Path) -> Any:
    """Expected values; DIR stands for the directory of the project."""
    if isinstance(value, dict):
        return {key: filled(item, directory) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, directory) for item in value]
    return value.replace("DIR", str(directory)) if isinstance(value, str) else value
