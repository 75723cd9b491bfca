# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Installs the Debian packages that the module reports as missing, in the same task."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail

from . import engine
from .engine import Json

MODULE = "sandbox_host"


class Host(engine.Action):
    """The action plugin of a module that runs ``sandbox_host``."""

    def _host(self, arguments: Json, task_vars: Json, in_background: bool = False) -> Json:
        install = arguments.get("packages") == "install"
        if install and in_background:
            raise AnsibleActionFail("packages=install is not for a task with async")
        outcome = self._module(arguments, task_vars, in_background=in_background, name=MODULE)
        missing = outcome.get("missing_packages")
        if install and missing and not outcome.get("failed") and not self._task.check_mode:
            return self._with_packages(missing, outcome, arguments, task_vars)
        return outcome

    def _with_packages(
        self, missing: list[str], outcome: Json, arguments: Json, task_vars: Json
    ) -> Json:
        names = ", ".join(missing)
        options = {
            "name": missing,
            "install_recommends": False,
            "update_cache": True,
            "cache_valid_time": 3600,
        }
        installed = self._other("ansible.builtin.apt", options, task_vars)
        if installed.get("failed"):
            reason = installed.get("msg", "").strip()
            hint = "install them, or what has the same programs on another system"
            message = f"the Debian packages {names} can't be installed: {reason}; {hint}"
            return {**installed, "msg": message, "changed": outcome["changed"]}
        again = self._module({**arguments, "packages": "require"}, task_vars, name=MODULE)
        actions = [*outcome["actions"], f"packages: install {names}", *again.get("actions", ())]
        return {**again, "changed": True, "actions": actions}

    def _other(self, name: str, options: Json, task_vars: Json) -> Json:
        result: Json = self._execute_module(
            module_name=name, module_args=options, task_vars=task_vars
        )
        return result


class Action(Host):
    """The action plugin of ``sandbox_host``."""

    def _act(self, arguments: Json, task_vars: Json, in_background: bool) -> Json:
        return self._host(arguments, task_vars, in_background)
