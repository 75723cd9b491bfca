# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes the results of a play's tasks into the file that KEPT_RESULTS names.

A task that did so would cost as much as another start of Ansible.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kept_results
type: aggregate
short_description: Keeps the results of tasks
description: Tests of sandlot read them.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NEEDS_ENABLED = True
    CALLBACK_NAME = "kept_results"

    def __init__(self) -> None:
        super().__init__()
        self.results: list[dict[str, Any]] = []

    def v2_runner_on_ok(self, result: Any) -> None:
        self.results.append({**result.result, "failed": False})

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self.results.append({**result.result, "failed": True})

    def v2_runner_on_skipped(self, result: Any) -> None:
        self.results.append({**result.result, "failed": False})

    def v2_playbook_on_stats(self, stats: object) -> None:
        with open(os.environ["KEPT_RESULTS"], "w") as handle:
            json.dump(self.results, handle)
