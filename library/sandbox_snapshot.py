#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_snapshot
short_description: Make, restore and remove snapshots of sandboxes
version_added: 0.1.0
author: the sandlot developers (@sandlot)
description:
  - A snapshot is a copy of what a sandbox wrote, its layer, and of the volumes that it uses,
    as of one moment. A running sandbox is frozen while the copy is made, and so is every other
    one that uses one of these volumes.
  - Where the file system has reflinks (btrfs, XFS), the copy shares its blocks with the
    original. It takes milliseconds and no space until one of the two changes.
  - Snapshots that users name stay until they are removed, also when their sandbox goes. The
    command C(sandlot snapshots) lists all.
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: linux
options:
  sandbox:
    description:
      - The sandbox that the snapshot is of.
    type: str
    required: true
  name:
    description:
      - Name of the snapshot, up to 128 ASCII letters, digits, C(_), C(.) and C(-), a letter or
        digit first.
    type: str
    required: true
  state:
    description:
      - V(create) makes the snapshot. When the sandbox has one of that name, nothing is done.
      - V(restore) puts its layer and its volumes in the place of those that the sandbox has,
        which are set aside as another snapshot. The sandbox is rebuilt for that, as a transaction.
        When it does not run well afterwards, all is put back and the task fails. Each run of the
        task restores again.
      - V(absent) removes it.
    type: str
    choices: [create, restore, absent]
    default: create
  volumes:
    description:
      - Whether the snapshot has the volumes that the sandbox uses, or its layer only; for
        O(state=restore), whether they are restored. That is refused while another running sandbox
        uses one of them.
    type: bool
    default: true
  force:
    description:
      - Whether to restore the layer of another image. Its files may hide newer ones of the image
        that the sandbox has now.
      - Only used with O(state=restore).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A snapshot before something risky
  sandlot.sandlot.sandbox_snapshot:
    sandbox: db
    name: before-upgrade

- name: Go back to it
  sandlot.sandlot.sandbox_snapshot:
    sandbox: db
    name: before-upgrade
    state: restore

- name: Remove it
  sandlot.sandlot.sandbox_snapshot:
    sandbox: db
    name: before-upgrade
    state: absent
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["db: make snapshot before-upgrade with volumes data"]
snapshot:
  description:
    - The snapshot; null without one. C(size) are the bytes that its files take on disk,
      also those that they share with the original.
  returned: always
  type: dict
  sample:
    sandbox: db
    id: before-upgrade
    created: 1798550000.0
    reason: asked
    automatic: false
    keep: 0
    max_age: 0
    image: debian-13
    ids: {uid: 2000224256, gid: 2000224256, size: 65536}
    size: 41943040
    files: 1289
    more: false
    volumes: [data]
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import shell
from ..module_utils.sandlot.converge import kept
from ..module_utils.sandlot.site import Site

ARGUMENTS = {
    "sandbox": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["create", "restore", "absent"], "default": "create"},
    "volumes": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
}


def action(module: shell.Module, site: Site) -> shell.Json:
    asked = kept.SnapshotRequest(**module.params, check=module.check_mode)
    return kept.carry_out(site, asked).to_json()


def main() -> None:
    shell.start(AnsibleModule, ARGUMENTS, _load_params(), action)


if __name__ == "__main__":
    main()
