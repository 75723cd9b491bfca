# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Prepares a host in the task that converges its sandboxes, when the module finds it not ready."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail

from . import packages, uploads
from .engine import Json

# Of a host that was ready, the result has these alone.
_ALWAYS = ("actions", "changed", "missing_packages")


class Action(uploads.Action, packages.Host):
    """The action plugin of ``sandboxes``."""

    def _act(self, arguments: Json, task_vars: Json, in_background: bool) -> Json:
        host = arguments.get("host")
        if host is not None and in_background:
            raise AnsibleActionFail("host is not for a task with async; run sandbox_host before")
        if isinstance(host, dict) and "state" in host:
            raise AnsibleActionFail("host: state is no option here; sandbox_host takes it")
        result = super()._act(arguments, task_vars, in_background)
        return self._prepared(arguments, task_vars) if result.get("host_needed") else result

    def _prepared(self, arguments: Json, task_vars: Json) -> Json:
        """The result of both modules, one after the other."""
        host = self._host(arguments["host"], task_vars)
        if host.get("failed"):
            return host
        rest = {name: value for name, value in arguments.items() if name != "host"}
        result = super()._act(rest, task_vars, in_background=False)
        actions = [*host.get("actions", ()), *result.get("actions", ())]
        changed = bool(host.get("changed") or result.get("changed"))
        given = {name: x for name, x in host.items() if name[0] != "_" and name != "invocation"}
        if result.get("failed"):
            # Ansible prints all of a failed result, and the message would be behind the facts.
            given = {name: x for name, x in given.items() if name in _ALWAYS}
        return {**result, "changed": changed, "actions": actions, "host": given}
