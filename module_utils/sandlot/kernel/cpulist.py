# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Parses and prints the kernel's lists of CPUs and memory nodes, such as "0-3,6"."""

from __future__ import annotations

from typing import Iterable


def parse(text: str) -> frozenset[int]:
    """Parse a list; ValueError for any other text."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, dummy, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def render(numbers: Iterable[int]) -> str:
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
