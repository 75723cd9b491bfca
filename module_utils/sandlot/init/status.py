# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The status file: init's word to the host, rewritten in place through one descriptor."""

from __future__ import annotations

import json
import os
from typing import Any, Dict

SIZE = 512


class Status:
    """Keys are those of ``runtime.status``; one pwrite of fixed size per change."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.values: Dict[str, Any] = json.loads(os.pread(fd, SIZE, 0))

    def update(self, **changes: Any) -> None:
        self.values.update(changes)
        os.pwrite(self._fd, json.dumps(self.values).encode().ljust(SIZE), 0)
