# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The status file: init's word to the host, rewritten in place through one descriptor."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Union

    Value = Union[bool, int, float, str]

SIZE = 512


class Status:
    """Keys are those of ``runtime.status``; one pwrite of fixed size per change."""

    def __init__(self, fd: int, restarts: int) -> None:
        self._fd = fd
        self.values: Dict[str, Value] = {"restarts": restarts}

    def update(self, **changes: Value) -> None:
        self.values.update(changes)
        os.pwrite(self._fd, encoded(self.values), 0)


def encoded(values: Dict[str, Value]) -> bytes:
    """JSON of numbers and plain words, without the memory a JSON encoder takes in each sandbox."""
    members = ", ".join(f'"{key}": {_literal(value)}' for key, value in values.items())
    return f"{{{members}}}\n".encode().ljust(SIZE)


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return ("false", "true")[value] if isinstance(value, bool) else f"{value}"
