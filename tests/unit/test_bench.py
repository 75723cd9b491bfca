# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Figures of the bench as text, and what is met or missed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import rows  # noqa: E402


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (1.005, "1.00"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (2120.4, "2120"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert rows.number(value) == text


def test_a_figure_is_a_median_with_its_spread() -> None:
    assert rows.ms([0.0213, 0.0161, 0.0236]) == "21.3 ms (16.1-23.6)"
    assert rows.kb([2048, 2048]) == "2.00 kB"


@pytest.mark.parametrize(
    ("values", "word"), [([4.0, 4.5, 9.0], "met"), ([1.0, 4.6, 5.0], "MISSED")]
)
def test_the_median_is_judged(values: list[float], word: str) -> None:
    assert rows.at_most("more", values, 4.5, rows.times(values)).word == word


def test_pairs_are_compared_one_by_one() -> None:
    assert rows.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
