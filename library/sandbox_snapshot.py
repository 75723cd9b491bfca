#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_snapshot
short_description: Make, restore, clone, move and remove snapshots of sandboxes
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
    support: partial
    details: With O(state=restore), each run restores.
  platform:
    platforms: linux
options:
  sandbox:
    description:
      - The sandbox that the snapshot is of.
      - Required unless O(state=import), which takes the name from the archive.
    type: str
  name:
    description:
      - Name of the snapshot, up to 128 ASCII letters, digits, C(_), C(.) and C(-), a letter or
        digit first.
      - Required unless O(state=clone) or O(state=import).
    type: str
  state:
    description:
      - V(create) makes the snapshot. When the sandbox has one of that name, nothing is done.
      - V(restore) puts its layer and its volumes in the place of those that the sandbox has,
        which are set aside as another snapshot. The sandbox is rebuilt for that, as a transaction.
        When it does not run well afterwards, all is put back and the task fails. Each run of the
        task restores again.
      - V(clone) makes the sandbox O(into) of it, or of the sandbox as it is now when no O(name) is
        given. The clone has the options of the original, and ids, addresses, MAC addresses, machine
        id and host keys of its own. Published ports and fixed addresses are the original's;
        O(options) gives it others. Its volumes are copies with other names, as V(INTO.data) of
        V(data). When O(into) is a sandbox already, nothing is done.
      - V(export) writes it to the file O(path), a tar archive with a manifest and without the
        values of O(options) that may be secret (C(env)). A file that is there stays, unless
        O(force) is set.
      - V(import) makes a snapshot of such a file, which may come from another host, and may be
        hostile. Its layer and volumes are unpacked by a process without rights. Options that give
        the sandbox rights, or name something of the host, are not taken from an archive.
      - V(absent) removes it.
    type: str
    choices: [create, restore, clone, export, import, absent]
    default: create
  volumes:
    description:
      - Whether the snapshot has the volumes that the sandbox uses, or its layer only; for
        O(state=restore), whether they are restored. That is refused while another running sandbox
        uses one of them.
      - For O(state=clone), whether the clone's volumes are copies, or new ones as for any sandbox.
    type: bool
    default: true
  force:
    description:
      - Whether to put the layer on another image than the one that it was made on. Its files may
        hide newer ones of that image.
      - For O(state=export), whether a file is replaced.
    type: bool
    default: false
  into:
    description:
      - The sandbox that O(state=clone) makes.
    type: str
  options:
    description:
      - Options of M(sandlot.sandlot.sandbox) that the clone has in place of the original's.
    type: dict
    default: {}
  path:
    description:
      - The archive on the managed host that O(state=export) writes and O(state=import) reads.
    type: path
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

- name: Try the upgrade on a copy
  sandlot.sandlot.sandbox_snapshot:
    sandbox: db
    state: clone
    into: db-trial
    options:
      published_ports: ["127.0.0.1:5433:5432"]

- name: Move a database to another host, by a file
  sandlot.sandlot.sandbox_snapshot:
    sandbox: db
    name: before-upgrade
    state: export
    path: /root/db.tar

- name: Make a snapshot of the file there; state restore then puts it into a sandbox
  sandlot.sandlot.sandbox_snapshot:
    state: import
    path: /root/db.tar

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

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_snapshot", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
