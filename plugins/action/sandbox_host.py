# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Installs the Debian packages that the module reports as missing, in the same task."""

from __future__ import annotations

from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

Json = dict[str, Any]
_PYTHON = "ansible_python_interpreter"


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: None = None, task_vars: Json | None = None) -> Json:
        task_vars = self._quiet(task_vars or {})
        result: Json = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        install = arguments.get("packages") == "install"
        in_background = bool(self._task.async_val) and not self._connection.has_native_async
        if install and in_background:
            raise AnsibleActionFail("packages=install is not for a task with async")
        try:
            outcome = self._module(None, arguments, task_vars, wrap_async=in_background)
            missing = outcome.get("missing_packages")
            if install and missing and not outcome.get("failed") and not self._task.check_mode:
                outcome = self._with_packages(missing, outcome, arguments, task_vars)
            result.update(outcome)
        finally:
            if not in_background:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _quiet(self, task_vars: Json) -> Json:
        """Without the warning that a Python was chosen, where nobody chose one."""
        chosen = C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars)
        return task_vars if chosen != "auto" else {**task_vars, _PYTHON: "auto_silent"}

    def _with_packages(
        self, missing: list[str], outcome: Json, arguments: Json, task_vars: Json | None
    ) -> Json:
        names = ", ".join(missing)
        options = {
            "name": missing,
            "install_recommends": False,
            "update_cache": True,
            "cache_valid_time": 3600,
        }
        installed = self._module("ansible.builtin.apt", options, task_vars)
        if installed.get("failed"):
            reason = installed.get("msg", "").strip()
            hint = "install them, or what has the same programs on another system"
            message = f"the Debian packages {names} can't be installed: {reason}; {hint}"
            return {**installed, "msg": message, "changed": outcome["changed"]}
        again = self._module(None, {**arguments, "packages": "require"}, task_vars)
        actions = [*outcome["actions"], f"packages: install {names}", *again.get("actions", ())]
        return {**again, "changed": True, "actions": actions}

    def _module(
        self, name: str | None, options: Json, task_vars: Json | None, wrap_async: bool = False
    ) -> Json:
        result: Json = self._execute_module(
            module_name=name, module_args=options, task_vars=task_vars, wrap_async=wrap_async
        )
        return result
