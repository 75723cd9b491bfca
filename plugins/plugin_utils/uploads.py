# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Brings files of the controller to modules: archives of images, files, secrets and variables.

The module first reports the archives that it needs: on a host that has its images, it runs once.
"""

from __future__ import annotations

from ansible.errors import AnsibleActionFail

from . import configuration, engine
from .engine import Json


class Action(engine.Action):
    """The action plugin of modules that take files of the controller."""

    def _act(self, arguments: Json, task_vars: Json, in_background: bool) -> Json:
        arguments = configuration.filled(arguments, self, task_vars)
        local = self._local(arguments.get("images"))
        if not local:
            return self._module(arguments, task_vars, in_background=in_background)
        if in_background:
            raise AnsibleActionFail("src of an image can't be copied by a task with async")
        arguments = {**arguments, "uploads": {}}
        result = self._module(arguments, task_vars)
        needed = result.get("uploads_needed", [])
        if not needed:
            return result
        # Numbered, as two images may have archives of the same name.
        uploads = {
            name: self._copied(self._find_needle("files", local[name]), f"image-{number}")
            for number, name in enumerate(needed)
        }
        return self._module({**arguments, "uploads": uploads}, task_vars)

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
