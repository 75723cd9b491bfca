#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_exec
short_description: Run a command in sandboxes
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Runs a command in one running sandbox, or in many at a time, chosen by name or by label.
  - The options and the result are those of M(ansible.builtin.command). No shell runs unless the
    command is one.
  - Init of the sandbox starts the command, which so has the rights, the limits and the network of
    the workload. The image needs no Python for it.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  action_group:
    description: Is in an action group, for defaults by C(module_defaults).
    support: full
    membership: [sandlot.sandlot.sandbox]
  async:
    description: Can run in the background, by C(async).
    support: full
  check_mode:
    support: partial
    details: The command does not run. With O(creates) and O(removes), the result says whether it
      would; without, the task is skipped.
  diff_mode:
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: partial
    details: With O(creates) or O(removes).
  platform:
    platforms: linux
options:
  name:
    description:
      - The sandbox. One of O(name), O(names) and O(labels) is required.
    type: str
  names:
    description:
      - Sandboxes; the command runs in each of them.
    type: list
    elements: str
  labels:
    description:
      - Labels and their values. The command runs in each sandbox that has all of them, those of its
        image included, and that runs or is to run. Sandboxes that are stopped on purpose are left
        out. Without any, the task warns and changes nothing.
    type: dict
  argv:
    description:
      - Program and arguments as a list. One of O(argv) and O(command) is required.
    type: list
    elements: str
  command:
    description:
      - Program and arguments as a string that is split into words as a shell does. Nothing is
        expanded.
    type: str
    aliases: [cmd]
  stdin:
    description:
      - Text for the standard input of the command, which is empty otherwise.
    type: str
  stdin_add_newline:
    description:
      - Whether a newline follows on O(stdin).
    type: bool
    default: true
  env:
    description:
      - Environment variables, beside those of the workload. Quote values that YAML would read as
        booleans or numbers; others than text are refused.
      - Reports of the task hide their values.
    type: dict
  user:
    description:
      - User of the command in the sandbox, as V(USER) or V(USER:GROUP), names or ids; that of the
        workload by default.
    type: str
  chdir:
    description:
      - Directory that the command starts in; that of the workload by default.
    type: str
  creates:
    description:
      - Absolute path inside. Where it exists, the command does not run. It is looked up with the
        rights of O(user); wildcards have no meaning.
    type: str
  removes:
    description:
      - Absolute path inside. Where it does not exist, the command does not run.
    type: str
  timeout:
    description:
      - Seconds after which the command and the processes that it started are ended, with SIGTERM,
        then SIGKILL after five seconds. The exit code is then V(124).
    type: float
  output_limit:
    description:
      - The most that the command may write to both outputs in each sandbox, as V(512k) or V(10m).
        It is killed when it writes more, and the task fails.
      - By default V(10m) for one sandbox; several share that, with at least V(64k) for each.
    type: str
  detach:
    description:
      - Whether the task ends as soon as the command has started. It then has no standard streams,
        and runs until it ends, or until the workload ends.
    type: bool
    default: false
  strip_empty_ends:
    description:
      - Whether empty lines at the end of both outputs are left out.
    type: bool
    default: true
  forks:
    description:
      - In how many sandboxes the command runs at a time.
    type: int
    default: 10
seealso:
  - module: ansible.builtin.command
  - module: sandlot.sandlot.sandbox_info
"""

EXAMPLES = r"""
- name: Ask a database
  sandlot.sandlot.sandbox_exec:
    name: db
    argv: [psql, --no-align, --tuples-only]
    stdin: select count(*) from orders
    user: postgres
  register: orders
  changed_when: false

- name: Reload all web servers
  sandlot.sandlot.sandbox_exec:
    labels:
      role: web
    command: nginx -s reload

- name: Make a database once
  sandlot.sandlot.sandbox_exec:
    name: db
    command: initdb --pgdata /data
    creates: /data/PG_VERSION
    user: postgres
    timeout: 60

- name: Look at the disks of two sandboxes
  sandlot.sandlot.sandbox_exec:
    names: [web, db]
    command: df -h /
  register: disks
  failed_when: disks.results | selectattr('rc', 'gt', 1) | list | length > 0
"""

RETURN = r"""
rc:
  description:
    - The exit code of the command; 128 + n after signal n. Of several sandboxes, the first one
      other than V(0).
    - V(124) after O(timeout), V(126) and V(127) when the command can't be run or is missing,
      V(137) when the sandbox ended, V(125) for any other failure of sandlot.
  returned: always
  type: int
stdout:
  description: The standard output of the command; U+FFFD stands for bytes that are no UTF-8.
  returned: with O(name)
  type: str
stdout_lines:
  description: The same, split into lines.
  returned: with O(name)
  type: list
  elements: str
stderr:
  description: The standard error of the command.
  returned: with O(name)
  type: str
stderr_lines:
  description: The same, split into lines.
  returned: with O(name)
  type: list
  elements: str
cmd:
  description: The command.
  returned: with O(name)
  type: list
  elements: str
start:
  description: The time at which the command began; null when it did not run.
  returned: with O(name)
  type: str
end:
  description: The time at which it ended.
  returned: with O(name)
  type: str
delta:
  description: The time that it took.
  returned: with O(name)
  type: str
kind:
  description:
    - "The failure of sandlot: V(missing), V(stopped), V(vanished), V(timeout), V(output-limit),
      V(not-started) for a command that can't be run or is missing, or V(failed)."
  returned: with O(name), when the command did not come to its own end
  type: str
results:
  description: The results of the sandboxes, with the keys above and C(name), in their order.
  returned: with O(names) and O(labels)
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_exec", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
