# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Compose file as the variables of an inventory."""

from __future__ import annotations

DOCUMENTATION = """
---
name: compose
short_description: A Compose file as the variables of an inventory
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Converts the services of a Compose file, with its C(.env), profiles, C(extends), C(include) and
    several files, into C(sandbox_images), C(sandbox_networks), C(sandbox_volumes) and
    C(sandbox_instances).
  - What can't be carried over is one error, or a warning where the service works without it, with
    the file, the line and the remedy. Every option is checked as the modules check it.
  - Nothing but the files is read, and nothing is changed. The controller needs no program for it.
notes:
  - The page C(docs/compose.md) of the collection says what becomes of each key.
options:
  _terms:
    description:
      - A Compose file, or several that are merged as C(docker compose -f ONE -f TWO) does. They are
        found as M(ansible.builtin.copy) finds its O(ansible.builtin.copy#module:src).
      - A directory stands for the files that C(docker compose) reads there.
    type: list
    elements: str
    required: true
  profiles:
    description:
      - Profiles whose services are converted, beside services without a profile; V(*) is all.
      - Without this option, those of E(COMPOSE_PROFILES).
    type: list
    elements: str
  env_file:
    description:
      - Files with variables for the Compose file, found from its directory. Later ones win, and the
        environment of the controller wins over all.
      - Without this option, C(.env) beside the first Compose file, if it is there.
    type: list
    elements: str
  env:
    description: Variables for the Compose file, which win over all others.
    type: dict
    default: {}
  images:
    description:
      - Images to use in place of those that the file names, by the name of a service or by the text
        of its C(image).
      - A text is the name of an image that the inventory has. A mapping has fields of an entry of
        C(sandbox_images), which are put over those made from the file.
    type: dict
    default: {}
  secrets:
    description:
      - Secrets by their names in the file, such as V(db_password) with V(value), in place of what
        the file says. Those that are C(external) there need it.
      - Fields are V(value), V(src), V(template_src) and V(encoding).
    type: dict
    default: {}
  configs:
    description:
      - Configs by their names in the file, as O(secrets), with V(content) in place of V(value).
    type: dict
    default: {}
  instances:
    description:
      - Options of sandboxes, by the name of the service, which are put over those made from the
        file.
    type: dict
    default: {}
  directory:
    description:
      - The directory of the project on the managed host, where relative paths of binds begin.
      - Without it, files beside the Compose file, and directories that are mounted read-only,
        become C(files) of the sandbox; other relative paths are refused.
    type: str
  project:
    description:
      - Name of the project, with which names of its volumes and networks begin.
      - Without it, the C(name) of the file, else the name of its directory; for a file with a name
        of its own, such as C(wiki.yml), that.
    type: str
  subnet_pool:
    description:
      - Range of addresses for networks that the file gives no subnet.
    type: str
    default: 10.78.0.0/15
"""

EXAMPLES = """
- name: Deploy what a Compose file describes
  hosts: all
  vars:
    wiki: "{{ lookup('sandlot.sandlot.compose', 'wiki/compose.yml', profiles=['mail']) }}"
    sandbox_images: "{{ wiki.sandbox_images }}"
    sandbox_networks: "{{ wiki.sandbox_networks }}"
    sandbox_volumes: "{{ wiki.sandbox_volumes }}"
    sandbox_instances: "{{ wiki.sandbox_instances }}"
  roles:
    - role: sandlot.sandlot.sandbox_host
    - role: sandlot.sandlot.sandbox

- name: Show what becomes of it, with an image of the inventory and a password from a vault
  hosts: localhost
  tasks:
    - name: Show the variables
      ansible.builtin.debug:
        msg: >-
          {{ lookup('sandlot.sandlot.compose', 'app/compose.yml', 'app/production.yml',
                    images={'app': 'app'}, env={'DB_PASSWORD': vault_db_password}) }}
"""

RETURN = """
_raw:
  description: One mapping with the variables.
  type: list
  elements: dict
  contains:
    sandbox_images:
      description: The images that services name, of source C(oci) unless O(images) has another.
      type: list
      elements: dict
      returned: success
    sandbox_networks:
      description: The networks of the project that its services are on.
      type: list
      elements: dict
      returned: success
    sandbox_volumes:
      description: The volumes of the project that its services use.
      type: list
      elements: dict
      returned: success
    sandbox_instances:
      description: A sandbox for each service, with the service's name.
      type: list
      elements: dict
      returned: success
"""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display


def _shared(name: str) -> ModuleType:
    """A module of plugin_utils: Ansible has no package for the plugins of a checkout."""
    package = __name__.rpartition(".lookup.")[0]
    if not package.startswith("ansible_collections."):
        package = "sandlot_plugins"
        plugins = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        sys.modules.setdefault(package, ModuleType(package)).__path__ = [plugins]
    return importlib.import_module(f"{package}.plugin_utils.{name}")


compose = _shared("compose")


class LookupModule(LookupBase):
    """Finds the files, and shows warnings as Ansible's."""

    def run(
        self, terms: Iterable[Any], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        try:
            files = self._files(list(self._flatten(terms)), variables or {})
            result = compose.convert(
                files,
                request=self._request(),
                env_files=self._env_files(files[0].parent),
                variables=self._variables(),
                name=self.get_option("project"),
                warn=Display().warning,
            )
        except compose.ComposeError as error:
            raise AnsibleLookupError(str(error)) from error
        return [result]

    def _files(self, terms: list[str], variables: dict[str, Any]) -> list[Path]:
        if not terms:
            raise AnsibleLookupError("compose: no Compose file is named; name one")
        files: list[Path] = []
        for term in terms:
            place = self.find_file_in_search_path(variables, "files", str(term))
            if not place:
                raise AnsibleLookupError(f"compose: {term!r} is not a file of the controller")
            path = Path(os.path.abspath(place))
            files += compose.of_directory(path) if path.is_dir() else [path]
        return files

    def _env_files(self, base: Path) -> list[Path]:
        given = self.get_option("env_file")
        if given is None:
            return [path for path in [base / ".env"] if path.is_file()]
        return [base / path for path in given]

    def _variables(self) -> dict[str, str]:
        own = {}
        for name, value in self.get_option("env").items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                # The value may be a secret.
                hint = "write it as text, in quotes"
                raise AnsibleLookupError(f"compose: option env[{str(name)!r}] is not text; {hint}")
            own[str(name)] = str(value)
        return {**os.environ, **own}

    def _request(self) -> Any:
        fields = ("images", "secrets", "configs", "instances", "directory", "profiles")
        given = {field: self.get_option(field) for field in (*fields, "subnet_pool")}
        return compose.Request(**given)
