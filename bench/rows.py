# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Figures as text: a median with its spread, and whether it keeps a budget."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Sequence

KIB = 1024
# Two medians of the same thing differ by this much from run to run.
NOISE = 0.05

Figures = Dict[str, Any]
Values = Sequence[float]


@dataclass(frozen=True)
class Row:
    """One line of a table; without a budget it is only told."""

    what: str
    figure: str
    budget: str = ""
    met: bool | None = None

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "-"}[self.met]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def at_most(what: str, values: Values, limit: float, figure: str, unit: str = "x") -> Row:
    return Row(what, figure, f"at most {limit:g}{unit}", middle(values) <= limit)


def middle(values: Values) -> float:
    return float(statistics.median(values))


def ratios(ones: Values, others: Values) -> List[float]:
    """Pair by pair: the two of a pair were measured one right after the other."""
    return [one / other for one, other in zip(ones, others)]


def ms(values: Values) -> str:
    return _spread([value * 1000 for value in values], " ms")


def seconds(values: Values) -> str:
    return _spread(values, " s")


def kb(values: Values) -> str:
    return _spread([value / KIB for value in values], " kB")


def times(values: Values) -> str:
    return _spread(values, "x")


def plain(values: Values, unit: str) -> str:
    return _spread(values, unit)


def _spread(values: Values, unit: str) -> str:
    low, middle_, high = (number(value) for value in (min(values), middle(values), max(values)))
    return f"{middle_}{unit}" + (f" ({low}-{high})" if low != high else "")


def number(value: float) -> str:
    """Three digits that count."""
    digits = next((n for n, limit in ((2, 9.995), (1, 99.95)) if abs(value) < limit), 0)
    return f"{value:.{digits}f}"


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value
