# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes host, task, outcome and result of each task into the file that KEPT_RESULTS names."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kept_by_host
type: aggregate
short_description: Keeps the results of tasks with their hosts
description: Tests of sandlot read them.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NEEDS_ENABLED = True
    CALLBACK_NAME = "kept_by_host"

    def __init__(self) -> None:
        super().__init__()
        self.results: list[dict[str, Any]] = []

    def _keep(self, outcome: str, result: Any) -> None:
        # ansible-core before 2.19 has these names only.
        host, task = result._host.get_name(), result._task.get_name()
        kept = {"host": host, "task": task, "outcome": outcome, "result": result._result}
        self.results.append(kept)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._keep("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._keep("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._keep("unreachable", result)

    def v2_playbook_on_stats(self, stats: object) -> None:
        with open(os.environ["KEPT_RESULTS"], "w") as handle:
            json.dump(self.results, handle)
