# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The inventory of the hosts that have sandboxes: earlier sources of a run, or sources named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.inventory.host import Host
from ansible.inventory.manager import InventoryManager
from ansible.utils.vars import combine_vars
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible.vars.plugins import get_vars_from_inventory_sources

Json = dict[str, Any]
GROUP = "sandbox_hosts"
NAME, HOST = "ansible_sandbox_name", "ansible_sandbox_host"
CONNECTIONS = ("sandbox", "sandlot.sandlot.sandbox")


class Parent:
    """Hosts, groups and variables as tasks of a play would see them."""

    def __init__(self, loader: Any, manager: InventoryManager) -> None:
        self.manager = manager
        self._loader = loader
        manager.reconcile_inventory()
        self._variables = HostVars(manager, VariableManager(loader, manager), loader)

    @classmethod
    def earlier(cls, loader: Any, inventory: Any) -> Parent:
        """The hosts of the sources before this one."""
        manager = InventoryManager(loader, list(inventory.processed_sources), parse=False)
        # Ansible hands the data of an inventory to plugins, and looks up hosts by its manager.
        manager._inventory = inventory
        source = inventory.current_source
        parent = cls(loader, manager)
        # The look at the groups takes it for the end of all sources.
        inventory.current_source = source
        return parent

    @classmethod
    def read(cls, loader: Any, sources: Sequence[str]) -> Parent:
        manager = InventoryManager(loader, list(sources), parse=False)
        for source in sources:
            if "," not in source and not os.path.exists(source):
                raise AnsibleParserError(
                    f"option inventory: {source} does not exist; name an inventory, relative to "
                    "this file"
                )
            if not manager.parse_source(source):
                raise AnsibleParserError(
                    f"option inventory: {source} can't be read as an inventory; try "
                    f"ansible-inventory -i {source} --list"
                )
        return cls(loader, manager)

    def variables(self, host: str) -> Mapping[str, Any]:
        variables: Mapping[str, Any] = self._variables[host]
        return variables

    def chosen(self, patterns: list[str] | None) -> list[str]:
        """Names of the hosts to ask; a sandbox is none."""
        if patterns is None:
            patterns = [GROUP if GROUP in self.manager.groups else "all"]
        hosts = self.manager.get_hosts(patterns, ignore_limits=True, ignore_restrictions=True)
        return [host.name for host in hosts if not is_sandbox(host)]

    def adopt_into(self, inventory: Any, directory: str) -> None:
        """Add all of it to an inventory of a file in ``directory``.

        Ansible finds group_vars and host_vars in that directory only, so others are added as
        variables of groups and hosts.
        """
        places = ("", os.path.realpath(directory))
        elsewhere = [x for x in self.manager._sources if _directory(x) not in places]
        over_all = self._files(elsewhere, self.manager.groups["all"])
        for group in self.manager.groups.values():
            inventory.add_group(group.name)
            target = inventory.groups[group.name]
            # group_vars/all wins over variables that the file of an inventory gives to a group.
            above = {key: over_all[key] for key in group.vars if key in over_all}
            for new in (group.vars, above, self._files(elsewhere, group)):
                target.vars = combine_vars(target.vars, new)
            target.set_priority(group.priority)
        for host in self.manager.hosts.values():
            inventory.add_host(host.name)
            target = inventory.hosts[host.name]
            for new in (host.vars, self._files(elsewhere, host)):
                target.vars = combine_vars(target.vars, new)
        for group in self.manager.groups.values():
            for child in (*group.child_groups, *group.hosts):
                inventory.add_child(group.name, child.name)

    def _files(self, sources: Sequence[str], entity: Any) -> Json:
        return files_of(self._loader, sources, entity)


def files_of(loader: Any, sources: Sequence[str], entity: Any) -> Json:
    """Variables of a group or host from files beside its inventory, at whichever stage."""
    merged: Json = {}
    for stage in ("inventory", "task"):
        new = get_vars_from_inventory_sources(loader, sources, [entity], stage)
        merged = combine_vars(merged, new)
    return merged


def is_sandbox(host: Host) -> bool:
    return NAME in host.vars or host.vars.get("ansible_connection") in CONNECTIONS


def _directory(source: str) -> str:
    """The directory in which Ansible looks for group_vars of a source; "" for a list of hosts."""
    if "," in source and not os.path.exists(source):
        return ""
    return os.path.realpath(source if os.path.isdir(source) else os.path.dirname(source))
