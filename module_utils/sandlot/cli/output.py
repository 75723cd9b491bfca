# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Output: tables, JSON, human units, errors."""

from __future__ import annotations

import json
import sys
from typing import Any, Optional, Sequence

from ..errors import SandlotError

_UNITS = "KMGTP"
_SPANS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
NOTHING = "-"


def complain(error: SandlotError) -> None:
    say(error.message)
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")


def say(message: str) -> None:
    sys.stderr.write(f"sandlot: {message}\n")


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2, sort_keys=False) + "\n")


def print_actions(actions: Sequence[str], form: str, **more: bool) -> None:
    """Print the actions of a run, one a line, or with ``more`` as JSON."""
    if form == "json":
        print_json({**more, "actions": actions})
    else:
        sys.stdout.writelines(f"{action}\n" for action in actions)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table whose columns are as wide as their longest cell; ``right`` ones align right."""
    lines = [list(heads), *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    padded = (
        [
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(cells, widths, heads)
        ]
        for cells in lines
    )
    return "".join("  ".join(cells).rstrip() + "\n" for cells in padded)


def size(count: Optional[int]) -> str:
    """Bytes in powers of 1024 with three digits at most before the unit, as 1.2M."""
    if count is None:
        return NOTHING
    if count < 1024:
        return f"{count}B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 999.5 or unit == _UNITS[-1]:
            break
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def span(seconds: Optional[float]) -> str:
    """The two largest units of a time, as 3d4h, 12m or 5s."""
    if seconds is None:
        return NOTHING
    rest = int(seconds)
    parts = []
    for unit, length in _SPANS:
        count, rest = divmod(rest, length)
        parts.append((count, unit))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    shown = [f"{count}{unit}" for count, unit in parts[:2] if count] or ["0s"]
    return "".join(shown)
