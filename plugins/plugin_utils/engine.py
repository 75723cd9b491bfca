# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs modules by the engine of the host; one that the host lacks is copied there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase

from ..module_utils.sandlot import handover

Json = dict[str, Any]
_PYTHON = "ansible_python_interpreter"
# Ansible packs a module once for all its tasks: this one carries all modules.
CARRIER = "sandbox_info"


class Action(ActionBase):
    """The action plugin of a module that needs nothing else of the controller."""

    _supports_check_mode = True
    _supports_async = True

    _archive = ""
    """Where the engine is on the host, once it has been copied."""

    def run(self, tmp: None = None, task_vars: Json | None = None) -> Json:
        task_vars = self._quiet(task_vars or {})
        result: Json = super().run(tmp, task_vars)
        in_background = bool(self._task.async_val) and not self._connection.has_native_async
        try:
            result.update(self._act(dict(self._task.args), task_vars, in_background))
        finally:
            if not in_background:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _act(self, arguments: Json, task_vars: Json, in_background: bool) -> Json:
        return self._module(arguments, task_vars, in_background=in_background)

    def _quiet(self, task_vars: Json) -> Json:
        """Without the warning that a Python was chosen, where nobody chose one."""
        chosen = C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars)
        return task_vars if chosen != "auto" else {**task_vars, _PYTHON: "auto_silent"}

    def _module(
        self, arguments: Json, task_vars: Json, *, in_background: bool = False, name: str = ""
    ) -> Json:
        """The result of a module on the host: the task's own, unless another is named."""
        own = self._task.action.rpartition(".")[2]
        engine: Json = {"digest": handover.digest(_sources()), "archive": self._archive}
        engine["module"] = name or own
        if in_background:
            # The job's own answer comes when the plugin has ended.
            answer = self._execute({handover.ENGINE: {**engine, "probe": True}}, task_vars)
        else:
            answer = self._execute({**arguments, handover.ENGINE: engine}, task_vars)
        if answer.get("engine_needed"):
            engine["archive"] = self._archive = self._sent(engine["digest"])
            if isinstance(arguments.get("host"), dict):
                # A host without this engine is not ready: no need to have it told by the module.
                return {"host_needed": True}
        elif not in_background or answer.get("failed"):
            return answer
        return self._execute({**arguments, handover.ENGINE: engine}, task_vars, in_background)

    def _execute(self, arguments: Json, task_vars: Json, wrap_async: bool = False) -> Json:
        prefix, dot, dummy = self._task.action.rpartition(".")
        result: Json = self._execute_module(
            module_name=f"{prefix}{dot}{CARRIER}",
            module_args=arguments,
            task_vars=task_vars,
            wrap_async=wrap_async,
        )
        return result

    def _sent(self, digest: str) -> str:
        local = Path(C.DEFAULT_LOCAL_TMP, f"sandlot-{digest}.zip")
        if not local.exists():
            fresh = local.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(handover.pack(_sources()))
            fresh.rename(local)
        return self._copied(str(local), "engine.zip")

    def _copied(self, source: str, name: str) -> str:
        """Copy a file of the controller into the task's directory on the host."""
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        remote: str = shell.join_path(shell.tmpdir, name)
        self._transfer_file(source, remote)
        self._fixup_perms2((shell.tmpdir, remote), execute=False)
        return remote


def _sources() -> dict[str, bytes]:
    return handover.sources(os.path.dirname(handover.__file__))
