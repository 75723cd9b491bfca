# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A payload runs the installed engine only when that is the same engine, and root's."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from sandlot import handover

FILES = {"__init__.py": "A = 1\n", "kernel/libc.py": "B = 2\n"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANDLOT_ROOT", str(tmp_path))
    package = tmp_path / "usr/local/lib/sandlot/sandlot"
    for name, text in FILES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
        (package / name).chmod(0o644)
    return package


@pytest.fixture
def payload(tmp_path: Path) -> str:
    path = tmp_path / "payload.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ansible/module_utils/basic.py", "")
        for name, text in FILES.items():
            archive.writestr(f"ansible/module_utils/sandlot/{name}", text)
    return str(path)


def test_the_same_engine_is_used_from_disk(installed: Path, payload: str) -> None:
    assert handover.search_path(payload) == [str(installed)]


def test_nothing_installed(tmp_path: Path, payload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDLOT_ROOT", str(tmp_path))
    assert handover.search_path(payload) is None


@pytest.mark.parametrize("text", ["A = 2\n", "A = 1 \n", ""])
def test_another_content_is_not_used(installed: Path, payload: str, text: str) -> None:
    (installed / "__init__.py").write_text(text)
    assert handover.search_path(payload) is None


def test_a_file_that_is_missing(installed: Path, payload: str) -> None:
    (installed / "kernel/libc.py").unlink()
    assert handover.search_path(payload) is None


def test_files_that_others_can_write_are_not_used(installed: Path, payload: str) -> None:
    (installed / "kernel/libc.py").chmod(0o666)
    assert handover.search_path(payload) is None
    (installed / "kernel/libc.py").chmod(0o644)
    os.chown(installed / "kernel/libc.py", 1000, 1000)
    assert handover.search_path(payload) is None
