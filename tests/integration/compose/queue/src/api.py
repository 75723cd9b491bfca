# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Takes jobs, and says what became of them."""

from __future__ import annotations

import os

import kit

broker = kit.Redis(os.environ["BROKER_URL"])


def answer(method: str, path: str, body: str) -> tuple[int, str]:
    queue = path.rpartition("/")[2]
    if method == "POST":
        number = broker("INCR", "jobs")
        broker("LPUSH", f"queue:{queue}", f"{number} {body}")
        return 200, str(number)
    return 200, broker("GET", f"result:{queue}") or "not done"


kit.serve(8000, answer)
