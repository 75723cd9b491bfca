# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tasks inside sandboxes, over the connection of the host that runs them."""

from __future__ import annotations

DOCUMENTATION = """
---
name: sandbox
short_description: Run tasks inside sandboxes
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Reaches the host of a sandbox by the host's own connection and become plugins, with the host's
    variables, and runs there C(sandlot exec) and C(sandlot cp). Nothing is installed in the
    sandbox, no port of it is opened.
  - Whatever C(become_method) is set, a task with C(become) runs as its C(become_user) from its
    start; no C(sudo) or C(su) runs inside, and no password is needed there.
notes:
  - The page C(docs/connection.md) of the collection tells which variables belong to the host, and
    which to the sandbox.
options:
  host:
    description:
      - Name in the inventory of the host that runs the sandbox.
      - Without it, a sandbox whose name in the inventory is NAME@HOST is on HOST.
    type: str
    vars:
      - name: ansible_sandbox_host
  sandbox:
    description:
      - Name of the sandbox on its host.
      - Without it, that before the last C(@) of the name in the inventory, or all of that name.
    type: str
    vars:
      - name: ansible_sandbox_name
  remote_user:
    description:
      - User inside, as C(sandlot exec -u) takes it. Without it, the sandbox's own user.
      - C(remote_user) of ansible.cfg and E(ANSIBLE_REMOTE_USER) are the user of hosts, and do not
        count here.
    type: str
    vars:
      - name: ansible_user
      - name: ansible_sandbox_user
    keyword:
      - name: remote_user
  become_user:
    description: User inside of tasks with C(become), whatever their C(become_method).
    type: str
    default: root
    vars:
      - name: ansible_become_user
      - name: ansible_sudo_user
      - name: ansible_su_user
      - name: ansible_sandbox_become_user
    env:
      - name: ANSIBLE_BECOME_USER
    ini:
      - section: privilege_escalation
        key: become_user
    keyword:
      - name: become_user
  python:
    description:
      - Which Python modules run by. V(host) is that of the sandbox's host, which is shown inside,
        read-only, while a module runs, so the image needs none.
      - With V(guest), C(ansible_python_interpreter) and Ansible's search for one count.
    type: str
    choices: [guest, host]
    default: guest
    vars:
      - name: ansible_sandbox_python
  tty:
    description:
      - Give commands a terminal made inside. Error output then comes as output, and lines end as a
        terminal ends them.
      - Commands that get input, as modules do, have none all the same.
    type: bool
    default: false
    vars:
      - name: ansible_sandbox_tty
  max_output:
    description: Bytes that a command may write, until it is ended and its task fails.
    type: str
    default: 64M
    vars:
      - name: ansible_sandbox_max_output
  max_file:
    description: Bytes that a fetched file may hold; with more, its task fails.
    type: str
    default: 64G
    vars:
      - name: ansible_sandbox_max_file
  pipelining:
    description: Run modules without a file for each inside. It needs no terminal and no C(sudo).
    type: bool
    default: true
    env:
      - name: ANSIBLE_SANDBOX_PIPELINING
    ini:
      - section: sandbox_connection
        key: pipelining
    vars:
      - name: ansible_pipelining
      - name: ansible_sandbox_pipelining
  become_pass:
    description: Ignored, as nothing inside asks for it. It is not given to the host either.
    type: str
    vars:
      - name: ansible_become_password
      - name: ansible_become_pass
  password:
    description: Ignored, as nothing inside asks for it. It is not given to the host either.
    type: str
    vars:
      - name: ansible_password
      - name: ansible_ssh_pass
      - name: ansible_ssh_password
  inventory_name:
    description: Name in the inventory; Ansible sets it.
    type: str
    vars:
      - name: inventory_hostname
  hostvars:
    description: Variables of all hosts; Ansible sets them.
    type: raw
    vars:
      - name: hostvars
  facts:
    description: Facts of the sandbox; Ansible sets them.
    type: raw
    vars:
      - name: ansible_facts
"""

EXAMPLES = """
- name: Reach the sandbox "web" of the host "alpha" as "web@alpha"
  hosts: alpha
  gather_facts: false
  tasks:
    - name: Add the sandbox to the inventory
      ansible.builtin.add_host:
        name: web@alpha
        ansible_connection: sandlot.sandlot.sandbox

- name: Install a server inside, and configure it
  hosts: web@alpha
  tasks:
    - name: Install nginx
      ansible.builtin.apt:
        name: nginx
        update_cache: true
    - name: Write its page
      ansible.builtin.copy:
        content: hello
        dest: /var/www/html/index.html
        mode: "0644"
"""

import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase


def _shared(name: str) -> ModuleType:
    """A module of plugin_utils: Ansible has no package for the plugins of a checkout."""
    package = __name__.rpartition(".connection.")[0]
    if not package.startswith("ansible_collections."):
        package = "sandlot_plugins"
        plugins = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        sys.modules.setdefault(package, ModuleType(package)).__path__ = [plugins]
    return importlib.import_module(f"{package}.plugin_utils.{name}")


facts = _shared("facts")
# Not "transport": that is an attribute of the class, by which pylint mistakes one for the other.
ways = _shared("transport")
inside = _shared("inside")

# Templating all hosts for each task takes long: they are templated where they are read.
_LAZY = ("hostvars", "ansible_facts")


class Connection(ConnectionBase):
    """Runs commands of a task by sandlot on the sandbox's host."""

    transport = ways.SANDBOX
    has_pipelining = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy: dict[str, Any] = {}
        self._becomes = False
        self._delegate: str | None = None
        self._target: Any = None
        # The shell of the user that a task becomes has its temporary files in a directory of all.
        self._mkdtemp, self._shell.mkdtemp = self._shell.mkdtemp, self._temporary

    # -- options

    def set_become_plugin(self, plugin: Any) -> None:
        """Note that the task becomes another user; no become plugin has anything to do."""
        self._becomes = plugin is not None

    def _resolve_option_variables(self, variables: Any, templar: Any) -> dict[str, Any]:
        """Values for options; ansible-core before 2.18 templates all of them itself."""
        names = C.config.get_plugin_vars("connection", self._load_name)
        self._lazy = {name: variables.get(name) for name in _LAZY}
        own = {name: variables[name] for name in names if name in variables and name not in _LAZY}
        resolved: dict[str, Any] = super()._resolve_option_variables(own, templar)
        return resolved

    def set_options(
        self,
        task_keys: dict[str, Any] | None = None,
        var_options: dict[str, Any] | None = None,
        direct: dict[str, Any] | None = None,
    ) -> None:
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self.close()
        keys, values = task_keys or {}, {**(var_options or {}), **self._lazy}
        self._refuse_facts(values)
        self._hostvars = values.get("hostvars") or {}
        self._delegate = keys.get("delegate_to")
        self._inventory_name = self._delegate or self.get_option("inventory_name")
        self._user = (
            self.get_option("become_user") if self._becomes else self._own_user(keys, values)
        )
        # Ansible would look up this user's home by ~USER; HOME leads to it for ids, too.
        self._options["remote_user"] = None

    def _own_user(self, keys: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
        user: str | None = self.get_option("remote_user")
        # For a delegated task, Ansible has filled in what the keyword says.
        filled_in = keys.get("delegate_to") and user == keys.get("remote_user")
        is_chosen = user in (values.get("ansible_user"), values.get("ansible_sandbox_user"))
        if user == C.DEFAULT_REMOTE_USER and (filled_in or not is_chosen):
            return None
        return user or None

    def _refuse_facts(self, values: Mapping[str, Any]) -> None:
        """Refuse options, and a name in the inventory, that a module inside has set by facts."""
        names = C.config.get_plugin_vars("connection", self._load_name)
        own = [name for name in names if name not in _LAZY]
        facts.refuse(values, own, "from inside the sandbox", self._load_name)

    def update_vars(self, variables: dict[str, Any]) -> None:
        """Variables that the connection adds to those of a task."""
        super().update_vars(variables)
        if self.get_option("python") == "host":
            # Modules of a delegated task run by the variables of the host that it is delegated to.
            delegated = variables.get("ansible_delegated_vars") or {}
            own = delegated.get(self._delegate, variables)
            own["ansible_python_interpreter"] = inside.PYTHON

    # -- the way in

    def _connect(self) -> Connection:
        if self._target is None:
            host, sandbox = self._names()
            self._target = inside.Target(
                ways.Transport(host, self._variables_of(host), **self._credentials()),
                sandbox,
                user=self._user,
                host_python=self.get_option("python") == "host",
                tty=self.get_option("tty"),
                max_output=self._size("max_output"),
                max_file=self._size("max_file"),
            )
            self._connected = True
        return self

    def _names(self) -> tuple[str, str]:
        before, dummy, host = str(self._inventory_name or "").rpartition("@")
        host = self.get_option("host") or (host if before else "")
        if not host:
            raise AnsibleError(
                f"{self._inventory_name}: nothing tells which host runs this sandbox; set "
                "ansible_sandbox_host, or name it NAME@HOST in the inventory"
            )
        return host, inside.name(self.get_option("sandbox") or before or str(self._inventory_name))

    def _variables_of(self, host: str) -> Mapping[str, Any]:
        if host not in self._hostvars:
            raise AnsibleError(
                f"ansible_sandbox_host: {host!r} is no host of the inventory; "
                "add it there, or correct the name"
            )
        variables: Mapping[str, Any] = self._hostvars[host]
        return variables

    def _credentials(self) -> dict[str, Any]:
        """Passwords that Ansible has asked for (-k, -K), and no values of the sandbox's own."""
        play = self._play_context
        asked = {"password": play.password, "become_password": play.become_pass}
        own = (self.get_option("password"), self.get_option("become_pass"))
        return {
            **{name: value for name, value in asked.items() if value not in own},
            "timeout": play.timeout,
            "no_log": bool(play.no_log),
        }

    def _size(self, option: str) -> int:
        return inside.size(f"ansible_sandbox_{option}", self.get_option(option))

    def _temporary(self, *args: Any, **kwargs: Any) -> Any:
        """The command that makes a directory; a user that a task becomes may have no home."""
        if self._becomes and self._user != "root":
            kwargs["system"] = True
        return self._mkdtemp(*args, **kwargs)

    # -- what tasks do

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        self._display.vvv(f"EXEC {cmd}", host=self._target.label)
        shell = self._play_context.executable or "/bin/sh"
        result: tuple[int, bytes, bytes] = self._target.execute([shell, "-c", cmd], in_data or b"")
        return result

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        self._display.vvv(f"PUT {in_path} TO {out_path}", host=self._target.label)
        if not os.path.exists(in_path):
            raise AnsibleFileNotFound(f"file or module does not exist: {in_path}")
        self._target.put(in_path, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        self._display.vvv(f"FETCH {in_path} TO {out_path}", host=self._target.label)
        self._target.fetch(in_path, out_path)

    def reset(self) -> None:
        """Close the connection to the host, which the next task opens again."""
        self._connect()
        self._target.way.reset()
        self.close()

    def close(self) -> None:
        if self._target is not None:
            self._target.way.close()
        self._target, self._connected = None, False
