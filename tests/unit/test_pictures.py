# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Pictures are drawn from text, so that a change of one is a change of the other."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Iterator

import pytest

PICTURES = Path(__file__).resolve().parents[2] / "docs/pictures"


@pytest.fixture(scope="module")
def render() -> Iterator[ModuleType]:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(PICTURES))
    yield importlib.import_module("render")
    monkeypatch.undo()


def test_the_picture_is_what_its_text_says(render: ModuleType) -> None:
    drawn = render.rendered(render.SOURCE.read_text(encoding="utf-8"))
    assert render.PICTURE.read_text(encoding="utf-8") == drawn


def test_a_text_that_does_not_fit_is_refused(render: ModuleType) -> None:
    source = f"title T\nlane init I / J\nlanes\nbox init H\n@ {'x' * 60}\n"
    with pytest.raises(ValueError, match="H: .* is too long"):
        render.rendered(source)


def test_the_code_that_it_names_exists(render: ModuleType) -> None:
    items = render.parsed(render.SOURCE.read_text(encoding="utf-8"))
    named = [text for item in items for mark, text in item.lines if mark == "@"]
    places = [place for text in named for place in text.split(", ")]
    root = PICTURES.parents[1]
    engine = root / "module_utils/sandlot"
    assert [
        place
        for place in places
        if not any(
            (top / f"{place}{end}").exists() for top in (root, engine) for end in ("", ".py")
        )
    ] == []
