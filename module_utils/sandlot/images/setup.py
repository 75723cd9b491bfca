# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Setup: what is run once in a throw-away sandbox of an image and kept as a layer above it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Callable, Dict, Sequence, Tuple

from ..spec.option import Option
from ..spec.text import line, mapping, refusal, sequence
from .model import Image, Job, Made

Json = Dict[str, Any]

# Runs the steps of ``job.spec`` in a sandbox of the image; fills ``job.root`` with what they wrote.
Runner = Callable[[Job, Image], Made]


def _steps(option: str, value: Any) -> Tuple[Json, ...]:
    items = enumerate(sequence(option, value))
    return tuple(_step(f"{option}[{index}]", item) for index, item in items)


def _step(option: str, value: Any) -> Json:
    if isinstance(value, str):
        return {"command": ["sh", "-c", line(option, value)]}
    given = mapping(option, value)
    if set(given) != {"command"}:
        raise refusal(
            option, value, "is no step", hint="write a line for a shell, or command: [..]"
        )
    return {"command": [line(f"{option}.command", word) for word in given["command"]]}


OPTION = Option(
    "setup",
    "list",
    _steps,
    [
        "Steps run once, in order, in a throw-away sandbox of the image, and kept as a layer.",
        "A string is a line for the shell of the image.",
    ],
    dump=list,
    elements="raw",
)


def digest(base: str, steps: Sequence[Json]) -> str:
    """What names the layer: the tree below it, and the steps."""
    text = json.dumps([base, list(steps)], sort_keys=True)
    return hashlib.sha256(f"setup layer 1\n{text}".encode()).hexdigest()
