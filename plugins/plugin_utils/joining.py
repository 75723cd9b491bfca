# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stands for an inventory while hosts choose names of groups, which may be those of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleError


class Joining:
    """Has the methods by which Ansible makes keyed groups; refuses a name, not all of the source.

    ``may_join`` tells whether sandboxes may be put into a group, ``warn`` takes other refusals.
    """

    def __init__(
        self, inventory: Any, may_join: Callable[[str], bool], warn: Callable[[str], None]
    ) -> None:
        self._inventory = inventory
        self.groups, self.hosts = inventory.groups, inventory.hosts
        self._may_join = may_join
        self._warn = warn

    def get_host(self, name: str) -> Any:
        return self._inventory.get_host(name)

    def add_group(self, group: str) -> str:
        return str(self._inventory.add_group(group)) if group else ""

    def add_host(self, host: str, group: str) -> None:
        if not group:
            self._warn(f"{host} is put into no group without a name")
        elif self._may_join(group):
            self._inventory.add_host(host, group)

    def add_child(self, parent: str, group: str) -> None:
        if not group or not self._may_join(group):
            return
        try:
            if parent != group:
                self._inventory.add_child(parent, group)
        except AnsibleError as error:
            self._warn(f"group {group} is not put into group {parent}: {error}")
