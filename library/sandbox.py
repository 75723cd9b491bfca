#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox
short_description: Converge one sandbox
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Makes, changes, starts, stops or removes one sandbox; the others are left alone.
  - For more than a few sandboxes, M(sandlot.sandlot.sandboxes) does the same in one call.
requirements:
  - Linux 5.10 or later, nft
  - pyroute2 (only when interfaces change)
seealso:
  - module: sandlot.sandlot.sandboxes
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: linux
options: {}
"""

EXAMPLES = r"""
- name: A web server from the busybox image
  sandlot.sandlot.sandbox:
    name: web
    image: busybox
    command: [httpd, -f, -p, "80", -h, /etc]
    memory: 64m
    published_ports:
      - "8080:80"

- name: Remove it
  sandlot.sandlot.sandbox:
    name: web
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["web: create from busybox", "web: start"]
sandbox:
  description: Facts of the sandbox.
  returned: always
  type: dict
  sample:
    name: web
    state: started
    addresses: [10.77.0.2]
    ids: {uid: 200000, gid: 200000, size: 65536}
relaxed:
  description: What the spec loosened of the default confinement.
  returned: always
  type: list
  elements: str
  sample: ["capabilities: NET_RAW"]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.sandlot import converge, shell
from ..module_utils.sandlot.paths import Paths
from ..module_utils.sandlot.spec import argument_spec, normalise


def action(module: shell.Module, paths: Paths) -> shell.Json:
    spec = normalise(module.params)
    result = converge.converge(paths, converge.request([spec], check=module.check_mode))
    return {
        "changed": result.changed,
        "actions": result.actions,
        "sandbox": result.results.get(spec.name, {"name": spec.name, "state": "absent"}),
        "relaxed": result.relaxed.get(spec.name, []),
        "diff": result.diff,
        "failed": result.failed,
    }


def main() -> None:
    shell.run(AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True), action)


if __name__ == "__main__":
    main()
