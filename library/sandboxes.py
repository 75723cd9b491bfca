#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandboxes
short_description: Converge all sandboxes of a host
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Makes, changes, starts, stops and removes the sandboxes of a host in one call.
  - Only what differs is touched. A changed option restarts at most the sandbox it belongs to;
    an option that is withdrawn goes back to its default.
  - Every check is made before the first change.
requirements:
  - Linux 5.10 or later, nft
  - pyroute2 (only when interfaces change)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: linux
options:
  sandboxes:
    description:
      - The sandboxes, each a mapping of the options of M(sandlot.sandlot.sandbox).
    type: list
    elements: dict
    required: true
    suboptions: {}
  defaults:
    description:
      - Options merged under each sandbox; all of O(sandboxes) but C(name).
      - A list or mapping of a sandbox replaces the default one as a whole.
    type: dict
    default: {}
  purge:
    description:
      - Whether to remove every sandbox that is not listed, and what an interrupted run left.
    type: bool
    default: false
  recreate:
    description:
      - Whether to make all listed sandboxes anew. Their writable layers are lost;
        names, addresses and ids stay.
    type: bool
    default: false
  restart:
    description:
      - Whether to restart all listed sandboxes that run.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Two sandboxes and nothing else
  sandlot.sandlot.sandboxes:
    defaults:
      image: busybox
      memory: 64m
    sandboxes:
      - name: web
        command: [httpd, -f, -p, "80", -h, /etc]
        published_ports:
          - "8080:80"
      - name: worker
        command: [sh, -c, "while :; do date; sleep 60; done"]
    purge: true

- name: Remove every sandbox
  sandlot.sandlot.sandboxes:
    sandboxes: []
    purge: true
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["web: create from busybox", "web: start"]
sandboxes:
  description: Facts of each sandbox that was listed or removed, by name.
  returned: always
  type: dict
  sample:
    web:
      name: web
      state: started
      changed: true
      actions: ["web: create from busybox", "web: start"]
      addresses: [10.77.0.2]
      ids: {uid: 200000, gid: 200000, size: 65536}
relaxed:
  description: What the specs loosened of the default confinement, by name.
  returned: always
  type: dict
  sample:
    web: ["capabilities: NET_RAW"]
failed_items:
  description: Message of each sandbox that could not be converged; the others were.
  returned: when a sandbox failed
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.sandlot import converge, shell
from ..module_utils.sandlot.paths import Paths
from ..module_utils.sandlot.spec import argument_spec, normalise_all

ARGUMENTS = {
    "sandboxes": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": argument_spec(),
    },
    "defaults": {"type": "dict", "default": {}},
    "purge": {"type": "bool", "default": False},
    "recreate": {"type": "bool", "default": False},
    "restart": {"type": "bool", "default": False},
}


def action(module: shell.Module, paths: Paths) -> shell.Json:
    params = module.params
    request = converge.request(
        normalise_all(params["sandboxes"], defaults=params["defaults"]),
        purge=params["purge"],
        recreate=params["recreate"],
        restart=params["restart"],
        check=module.check_mode,
    )
    result = converge.converge(paths, request)
    return {
        "changed": result.changed,
        "actions": result.actions,
        "sandboxes": result.results,
        "relaxed": result.relaxed,
        "diff": result.diff,
        "failed": result.failed,
    }


def main() -> None:
    shell.run(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), action)


if __name__ == "__main__":
    main()
