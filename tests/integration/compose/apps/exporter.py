# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Numbers of the machine, in the form that prometheus reads."""

from __future__ import annotations

from pathlib import Path

import kit


def answer(_method: str, path: str, _body: str) -> tuple[int, str]:
    if path != "/metrics":
        return 404, "see /metrics"
    load = Path("/proc/loadavg").read_text().split()[0]
    seconds = Path("/proc/uptime").read_text().split()[0]
    return 200, f"node_load1 {load}\nnode_uptime_seconds {seconds}\n"


kit.serve(9100, answer)
