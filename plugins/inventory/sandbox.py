# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandboxes of hosts as hosts of an inventory."""

from __future__ import annotations

DOCUMENTATION = """
---
name: sandbox
short_description: The sandboxes of hosts as hosts of an inventory
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Asks the hosts of another inventory for their sandboxes, all at a time, by one call of
    C(sandlot list) each, over the connection and with the become method that they have there.
  - Each sandbox is the host C(NAME@HOST), which the connection plugin
    P(sandlot.sandlot.sandbox#connection) reaches, in the groups C(sandboxes), C(host_HOST),
    C(image_IMAGE), C(state_STATE) and C(label_KEY_VALUE), with C(_) for characters that names of
    groups can't have.
  - It has the variables C(sandbox_image), C(sandbox_state), C(sandbox_labels),
    C(sandbox_addresses), C(sandbox_published_ports) and C(sandbox_health). Text in them is never
    taken as a template.
  - Hosts, groups and variables of the other inventory are part of this one.
  - A host that does not answer, or has no sandlot, is a warning; the others are asked all the same.
notes:
  - The page C(docs/inventory.md) of the collection says more.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description:
      - This plugin; V(sandbox) in a checkout. The name of the file ends in C(sandboxes.yml),
        C(sandbox.yml), C(sandboxes.yaml) or C(sandbox.yaml).
    type: str
    required: true
    choices: [sandbox, sandlot.sandlot.sandbox]
  inventory:
    description:
      - Sources of the inventory with the hosts, relative to the file.
      - Without it, the sources that a run names before this one.
    type: list
    elements: str
  hosts:
    description:
      - Patterns of the hosts to ask.
      - Without it, those of the group C(sandbox_hosts) if there is one, else all. No sandbox is
        asked.
    type: list
    elements: str
  states:
    description:
      - States of the sandboxes that become hosts, such as V(running); all without it.
      - M(sandlot.sandlot.sandbox_info) says what they mean.
    type: list
    elements: str
    choices:
      - running
      - starting
      - restarting
      - backoff
      - crash-loop
      - stopping
      - stopped
      - exited
      - crashed
      - created
      - down
      - removing
      - broken
  timeout:
    description: Seconds that a host may take for its answer.
    type: int
    default: 30
  forks:
    description: How many hosts are asked at a time.
    type: int
    default: 5
    env:
      - name: ANSIBLE_FORKS
    ini:
      - section: defaults
        key: forks
"""

EXAMPLES = """
# sandboxes.yml, for: ansible -i sandboxes.yml label_role_web -m ping
plugin: sandlot.sandlot.sandbox
inventory: [hosts.yml, more-hosts.yml]
# Running sandboxes of some hosts, with groups such as tier_front and a variable of one's own
hosts: "sandbox_hosts:!staging"
states: [running]
keyed_groups:
  - key: sandbox_labels.tier | default('none')
    prefix: tier
compose:
  url: "'http://' ~ sandbox_addresses[0]"
"""

import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var


def _shared(name: str) -> ModuleType:
    """A module of plugin_utils: Ansible has no package for the plugins of a checkout."""
    package = __name__.rpartition(".inventory.")[0]
    if not package.startswith("ansible_collections."):
        package = "sandlot_plugins"
        plugins = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        sys.modules.setdefault(package, ModuleType(package)).__path__ = [plugins]
    return importlib.import_module(f"{package}.plugin_utils.{name}")


asking = _shared("asking")
joining = _shared("joining")
listing = _shared("listing")
parents = _shared("parents")
transport = _shared("transport")

Json = dict[str, Any]
FILES = tuple(f"{name}.{end}" for name in ("sandbox", "sandboxes") for end in ("yml", "yaml"))
GROUP = "sandboxes"
IN_COLLECTION = __name__.startswith("ansible_collections.")
CONNECTION = "sandlot.sandlot.sandbox" if IN_COLLECTION else "sandbox"
VARIABLES = ("image", "state", "labels", "addresses", "published_ports", "health")
# Inventories may give these to all hosts, and mean hosts: others than sandboxes have.
NOT_INSIDE = {"ansible_python_interpreter", "ansible_user"}
# Files that are being read: an inventory may be a directory that holds them.
_reading: set[str] = set()


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Asks hosts, checks what they say, and adds their sandboxes to the inventory."""

    NAME = "sandlot.sandlot.sandbox"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(FILES)

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        place = os.path.realpath(path)
        if place in _reading:
            return
        self._read_config_data(path)
        self._check_options()
        _reading.add(place)
        try:
            parent = self._parent(path)
        finally:
            _reading.remove(place)
        hosts = parent.chosen(self.get_option("hosts"))
        if not hosts:
            raise AnsibleParserError(self._no_hosts())
        self._joinable: dict[str, bool] = {}
        if self._is_taken(GROUP):
            problem = f"the inventory has hosts in a group {GROUP}, or a host of that name"
            raise AnsibleParserError(f"{problem}; rename it, as sandboxes get this group")
        inventory.add_group(GROUP)
        records = self._records(parent, hosts, path, cache=cache)
        names = [name for host in records for name in self._add_all(host, records[host])]
        self._keep_settings(names, [*inventory.processed_sources, path])
        self._construct(names)

    def _check_options(self) -> None:
        for option in ("forks", "timeout"):
            value = self.get_option(option)
            if value < 1:
                problem = f"option {option}: {value} is too small"
                raise AnsibleParserError(f"{problem}; write a number above 0")

    def _no_hosts(self) -> str:
        patterns = self.get_option("hosts")
        if patterns is not None:
            pattern = ",".join(patterns)
            return f"option hosts: {pattern!r} matches no host of the inventory; correct it"
        return (
            "there is no host to ask for sandboxes; write inventory: hosts.yml into this file, or "
            "name the inventory of the hosts before it: -i hosts.yml -i sandboxes.yml"
        )

    def _parent(self, path: str) -> Any:
        sources = self.get_option("inventory")
        if not sources:
            return parents.Parent.earlier(self.loader, self.inventory)
        directory = os.path.dirname(os.path.abspath(path))
        places = [os.path.join(directory, os.path.expanduser(source)) for source in sources]
        parent = parents.Parent.read(self.loader, places)
        parent.adopt_into(self.inventory, directory)
        return parent

    # -- what the hosts say

    def _records(
        self, parent: Any, hosts: list[str], path: str, *, cache: bool
    ) -> dict[str, list[Json]]:
        """Usable records of the sandboxes by host, from the cache for hosts that it has."""
        keeps, key = self.get_option("cache"), self.get_cache_key(path)
        records = self._cached(key, hosts) if keeps and cache else {}
        forks, timeout = self.get_option("forks"), self.get_option("timeout")
        passwords = _passwords()
        questions = {
            host: _Question(host, parent.variables(host), passwords)
            for host in hosts
            if host not in records
        }
        for host, answer in asking.ask_all(questions, forks=forks, timeout=timeout).items():
            if answer.problem:
                self.display.warning(f"sandboxes of {host} are left out: {answer.problem}")
                continue
            records[host], problems = answer.value
            for problem in problems:
                self.display.warning(f"{host}: {problem}; it is left out")
        if keeps and (questions or not cache):
            self._cache[key] = records
        return {host: records[host] for host in hosts if host in records}

    def _cached(self, key: str, hosts: list[str]) -> dict[str, list[Json]]:
        """Records of the cache, which are checked as those of a host are."""
        try:
            stored = self._cache[key]
            return {host: listing.checked(stored[host])[0] for host in hosts if host in stored}
        except (KeyError, TypeError, ValueError):
            return {}

    # -- hosts, variables, groups

    def _add_all(self, host: str, records: list[Json]) -> list[str]:
        states = self.get_option("states")
        chosen = [record for record in records if not states or record["state"] in states]
        return [name for record in chosen for name in self._add(host, record)]

    def _add(self, host: str, record: Json) -> list[str]:
        """Add a sandbox, unless its name is taken; its name in the inventory."""
        name = f"{record['name']}@{host}"
        known = self.inventory.hosts.get(name)
        if name in self.inventory.groups or (known and not parents.is_sandbox(known)):
            problem = f"{name} is left out: the inventory has another host or group of that name"
            self.display.warning(f"{problem}; rename it")
            return []
        self.inventory.add_host(name)
        variables = {
            "ansible_connection": CONNECTION,
            parents.NAME: record["name"],
            parents.HOST: host,
            # A host's text is never a template.
            **{f"sandbox_{key}": wrap_var(record[key]) for key in VARIABLES},
        }
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        for group in (GROUP, *listing.groups(record, host, self._sanitize_group_name)):
            if self._may_join(group):
                self.inventory.add_child(self.inventory.add_group(group), name)
        return [name]

    def _may_join(self, group: str) -> bool:
        """Whether sandboxes may be put into a group; a warning the first time when not."""
        if group not in self._joinable:
            self._joinable[group] = not self._is_taken(group)
            if not self._joinable[group]:
                problem = f"no sandbox is put into group {group}: the inventory has"
                problem = f"{problem} other hosts in it, or a host of that name; rename it"
                self.display.warning(problem)
        return self._joinable[group]

    def _is_taken(self, group: str) -> bool:
        """Whether a group has other hosts: its variables and plays are not for sandboxes.

        An inventory may declare groups of sandboxes, without hosts, to give them variables.
        """
        known = self.inventory.groups.get(group)
        hosts = known.get_hosts() if known else []
        return group in self.inventory.hosts or not all(map(parents.is_sandbox, hosts))

    def _keep_settings(self, names: list[str], sources: list[str]) -> None:
        """Keep settings that all hosts get from sandboxes whose own groups have none."""

        def settings(group: Any) -> set[str]:
            files = parents.files_of(self.loader, sources, group)
            return NOT_INSIDE & (files.keys() | group.vars.keys())

        groups = self.inventory.groups
        of_all = settings(groups["all"])
        if not of_all:
            return
        own = {name: settings(group) for name, group in groups.items() if name != "all"}
        for name in names:
            mine = (own.get(group.name, set()) for group in self.inventory.hosts[name].get_groups())
            for setting in of_all.difference(*mine):
                self.inventory.set_variable(name, setting, _default(setting))

    def _construct(self, names: list[str]) -> None:
        strict = self.get_option("strict")
        options = [self.get_option(option) for option in ("compose", "groups", "keyed_groups")]
        compose, groups, keyed = options
        for name in names:
            host = self.inventory.hosts[name]
            self._set_composite_vars(compose, host.get_vars(), name, strict=strict)
            self._add_host_to_composed_groups(groups, host.get_vars(), name, strict=strict)
            self._add_to_keyed_groups(keyed, host.get_vars(), name, strict=strict)

    def _add_to_keyed_groups(self, keyed: Any, values: Json, name: str, *, strict: bool) -> None:
        """Add a sandbox to groups whose names come from its host."""
        inventory = self.inventory
        self.inventory = joining.Joining(inventory, self._may_join, self.display.warning)
        try:
            self._add_host_to_keyed_groups(keyed, values, name, strict=strict)
        finally:
            self.inventory = inventory


def _default(setting: str) -> str:
    """The value that stands for none: no user is the sandbox's own."""
    if setting == "ansible_user":
        return ""
    return str(C.config.get_config_value("INTERPRETER_PYTHON"))


def _passwords() -> dict[str, str]:
    """Passwords of files; Ansible keeps those that it has asked for (-k, -K) from inventories."""
    files = {
        name: (context.CLIARGS or {}).get(f"{option}_password_file")
        or C.config.get_config_value(f"{option.upper()}_PASSWORD_FILE")
        for name, option in (("password", "connection"), ("become_password", "become"))
    }
    # Standard input is read once, by Ansible.
    given = {name: path for name, path in files.items() if path and path != "-"}
    if not given:
        return {}
    # The module looks at the locale and at its process when it is imported.
    from ansible.cli import CLI

    return {name: CLI.get_password_from_file(path) for name, path in given.items()}


class _Question:
    """The question to one host, for a process to ask."""

    def __init__(
        self, host: str, variables: Mapping[str, Any], passwords: Mapping[str, str]
    ) -> None:
        self._host, self._variables, self._passwords = host, variables, passwords

    def __call__(self) -> tuple[list[Json], list[str]]:
        way = transport.Transport(self._host, self._variables, **self._passwords)
        try:
            code, out, err = way.run(["list", "--format", "json"])
        finally:
            way.close()
        # Its exit code is 1 when a record is broken.
        if code and not out:
            last = err.decode(errors="replace").strip()
            raise ValueError(f"sandlot list has failed with exit code {code}: {last}")
        answer: tuple[list[Json], list[str]] = listing.checked(listing.parsed(out))
        return answer
