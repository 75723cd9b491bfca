#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_subid
short_description: Reserve subordinate id ranges for sandboxes
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Reserves 65536 subordinate user and group ids per name in C(/etc/subuid) and C(/etc/subgid).
  - The owner of a range is C(sandlot.NAME), its start is the same in both files.
  - A range never overlaps one of another line, a user, a group or the default ranges of useradd,
    systemd and SSSD.
  - Sandboxes reserve their ranges themselves. This module is for ranges without a sandbox, and
    for reserving them ahead.
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
    support: full
  diff_mode:
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
  platform:
    platforms: linux
options:
  names:
    description:
      - Names of sandboxes, one range each.
    type: list
    elements: str
    required: true
    aliases: [name]
  state:
    description:
      - Whether the ranges are reserved.
      - The range of an existing sandbox can't be removed.
    type: str
    choices: [present, absent]
    default: present
notes:
  - An existing range is kept, wherever it is.
  - Takes the locks that useradd takes. Every line of another owner stays as it is.
"""

EXAMPLES = r"""
- name: Reserve two ranges
  sandlot.sandlot.sandbox_subid:
    names: [web, worker]
  register: reserved

- name: Give one back
  sandlot.sandlot.sandbox_subid:
    name: worker
    state: absent
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["/etc/subuid: add web worker", "/etc/subgid: add web worker"]
ranges:
  description: First id and number of ids of each name.
  returned: always
  type: dict
  sample: {web: {start: 2000224256, size: 65536}, worker: {start: 2000289792, size: 65536}}
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_subid", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
