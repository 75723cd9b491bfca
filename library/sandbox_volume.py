#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_volume
short_description: Make, change or remove a volume
version_added: 0.1.0
author: the sandlot developers (@sandlot)
description:
  - Makes, changes and removes a volume, named data that sandboxes mount and that outlives
    them.
  - Its files have the owners that sandboxes see, so that sandboxes share it whatever their
    ids on the host are. Users of the host other than root can't reach them.
  - A volume that a sandbox names exists as soon as the sandbox does, declared or not.
  - An empty volume takes over the files that the first sandbox has at the target.
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  action_group:
    description: Is in an action group, for defaults by C(module_defaults).
    support: full
    membership: [sandlot.sandlot.sandbox]
  async:
    description: Can run in the background, by C(async).
    support: full
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
  platform:
    platforms: linux
options:
  name:
    description:
      - Name of the volume, which C(volumes) of sandboxes refer to.
      - Up to 128 ASCII letters, digits, C(_), C(.) and C(-), a letter or digit first.
    type: str
    required: true
  state:
    description:
      - Whether the volume is on the host.
      - A volume that a sandbox uses can't be removed; one that holds data only with O(force).
      - Defaults to V(present).
    type: str
    choices: [present, absent]
  size:
    description:
      - The most that the volume may hold, such as V(10g); no limit unless given.
      - 'The kernel enforces it: by a project quota where the file system has one, else
        by a file system of that size in a sparse file. Where neither works it is refused.'
    type: str
  labels:
    description:
      - Labels, for the use of others.
    type: dict
  force:
    description:
      - With O(state=absent), whether to remove the volume with the data that it holds.
      - Defaults to V(false).
    type: bool
"""

EXAMPLES = r"""
- name: A volume
  sandlot.sandlot.sandbox_volume:
    name: data
    labels: {backup: daily}

- name: Remove it with the data that it holds
  sandlot.sandlot.sandbox_volume:
    name: data
    state: absent
    force: true
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["volume data: make"]
volumes:
  description: The volumes of the host by name, with the sandboxes that use them.
  returned: always
  type: dict
  sample:
    data:
      name: data
      size: null
      labels: {backup: daily}
      created: 1795958100.0
      path: /var/lib/sandlot/volumes/data/data
      used_by: [db]
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_volume", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
