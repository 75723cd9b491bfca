# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Brings files of the controller to modules: archives of images, files, secrets and variables.

The module first reports the archives that it needs: on a host that has its images, it runs once.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

Json = dict[str, Any]
_PYTHON = "ansible_python_interpreter"


def _shared(name: str) -> ModuleType:
    """A module of plugin_utils: Ansible has no package for the plugins of a checkout."""
    package = __name__.rpartition(".action.")[0]
    if not package.startswith("ansible_collections."):
        package = "sandlot_plugins"
        plugins = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        sys.modules.setdefault(package, ModuleType(package)).__path__ = [plugins]
    return importlib.import_module(f"{package}.plugin_utils.{name}")


configuration = _shared("configuration")


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: None = None, task_vars: Json | None = None) -> Json:
        task_vars = self._quiet(task_vars or {})
        result: Json = super().run(tmp, task_vars)
        arguments = configuration.filled(dict(self._task.args), self, task_vars)
        local = self._local(arguments.get("images"))
        in_background = bool(self._task.async_val) and not self._connection.has_native_async
        if local and in_background:
            raise AnsibleActionFail("src of an image can't be copied by a task with async")
        try:
            result.update(self._converged(arguments, local, task_vars, in_background))
        finally:
            if not in_background:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _quiet(self, task_vars: Json) -> Json:
        """Without the warning that a Python was chosen, where nobody chose one."""
        chosen = C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars)
        return task_vars if chosen != "auto" else {**task_vars, _PYTHON: "auto_silent"}

    def _converged(
        self, arguments: Json, local: dict[str, str], task_vars: Json | None, in_background: bool
    ) -> Json:
        if not local:
            return self._module(arguments, task_vars, wrap_async=in_background)
        arguments = {**arguments, "uploads": {}}
        result = self._module(arguments, task_vars)
        needed = result.get("uploads_needed", [])
        if not needed:
            return result
        # Numbered, as two images may have archives of the same name.
        uploads = {
            name: self._copied(local[name], f"image-{number}") for number, name in enumerate(needed)
        }
        return self._module({**arguments, "uploads": uploads}, task_vars)

    def _module(self, arguments: Json, task_vars: Json | None, wrap_async: bool = False) -> Json:
        result: Json = self._execute_module(
            module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
        )
        return result

    def _local(self, images: object) -> dict[str, str]:
        """The ``src`` of each image; malformed items are skipped, as the module refuses them."""
        items = images if isinstance(images, list) else []
        return {
            item["name"]: item["src"]
            for item in items
            if isinstance(item, dict)
            and isinstance(item.get("name"), str)
            and isinstance(item.get("src"), str)
            and item.get("state") != "absent"
        }

    def _copied(self, src: str, name: str) -> str:
        source = self._find_needle("files", src)
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        remote: str = shell.join_path(shell.tmpdir, name)
        self._transfer_file(source, remote)
        self._fixup_perms2((shell.tmpdir, remote), execute=False)
        return remote
