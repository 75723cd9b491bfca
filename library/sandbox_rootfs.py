#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_rootfs
short_description: Make the images that sandboxes start from
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Makes, replaces and removes images, which are root file systems kept once per host.
  - All sandboxes of an image share its tree, whatever their id ranges.
  - A sandbox keeps the tree it was made from until it is rebuilt.
requirements:
  - A statically linked busybox, for O(images[].source=busybox)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
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
  images:
    description:
      - Images by name.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name that sandboxes refer to.
          - Up to 80 ASCII letters, digits and C(_.:@/+-), a letter or digit first.
        type: str
        required: true
      state:
        description:
          - Whether the image is on the host.
          - An image that a sandbox uses can't be removed.
        type: str
        choices: [present, absent]
        default: present
      source:
        description:
          - What the image is made of. Required when O(images[].state=present).
          - V(busybox) is the host's own static busybox with links for its applets.
          - V(tarball) is an archive of a root file system.
        type: str
        choices: [busybox, tarball]
      path:
        description:
          - Archive on the managed host, plain or compressed with gzip, xz or bzip2.
          - Only for O(images[].source=tarball), where either this or O(images[].url) is required.
        type: path
      url:
        description:
          - Where the managed host fetches the archive, with http or https.
          - Only for O(images[].source=tarball).
        type: str
      checksum:
        description:
          - Checksum of the archive, as V(sha256:HEX) or V(sha512:HEX).
          - Required for O(images[].source=tarball). It also tells whether the image has changed.
        type: str
      max_size:
        description:
          - Most bytes the archive may unpack to, such as V(2g).
          - Without it, V(8g).
        type: str
      max_files:
        description:
          - Most members the archive may have.
          - Without it, V(500000).
        type: int
  purge:
    description:
      - Whether images that are not listed are removed, and trees nothing refers to.
    type: bool
    default: false
notes:
  - Archives are verified before they are read, and unpacked by a confined process.
  - Device nodes and FIFOs in an archive are left out and reported as warnings.
seealso:
  - module: sandlot.sandlot.sandboxes
"""

EXAMPLES = r"""
- name: The image of busybox
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: busybox
        source: busybox

- name: A root file system from an archive, and no other image
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: debian
        source: tarball
        url: https://images.example.com/debian-12.tar.xz
        checksum: sha256:2f3a1c9d1b6f5f3f0d6f5c1e7a9b8c4d2e1f0a3b5c7d9e8f6a4b2c0d1e3f5a7b
    purge: true
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["image busybox: make 33797cfa5d26 from busybox"]
images:
  description: All images of the host by name.
  returned: always
  type: dict
  sample:
    busybox:
      name: busybox
      source: busybox
      parameters: {}
      digest: 33797cfa5d26...
      root: /var/lib/sandlot/images/trees/33797cfa5d26.../root
      warnings: []
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.sandlot import images, plan, shell, spec
from ..module_utils.sandlot.paths import Paths

IMAGE = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "source": {"type": "str", "choices": list(images.SOURCES)},
    **spec.arguments(images.options()),
}


def action(module: AnsibleModule, paths: Paths) -> shell.Json:
    specs = images.normalise_all(module.params["images"])
    purge = module.params["purge"]
    before = images.observe(paths)
    after = images.desired(paths, specs, purge=purge)
    operations = images.operations(paths, specs, purge=purge)
    if not module.check_mode:
        plan.apply_all(operations)
        after = {name: image for name, image in images.observe(paths).items() if name in after}
    facts = {name: images.facts(paths, image) for name, image in after.items()}
    left_out = [(name, text) for name, each in facts.items() for text in each["warnings"]]
    for name, text in left_out if operations else ():
        module.warn(f"image {name}: {text}")
    return {
        "changed": bool(operations),
        "actions": plan.descriptions(operations),
        "images": facts,
        "diff": {
            "before": {name: image.to_json() for name, image in before.items()},
            "after": {name: image.to_json() for name, image in after.items()},
        },
    }


def main() -> None:
    spec = {
        "images": {"type": "list", "elements": "dict", "required": True, "options": IMAGE},
        "purge": {"type": "bool", "default": False},
    }
    shell.run(AnsibleModule(argument_spec=spec, supports_check_mode=True), action)


if __name__ == "__main__":
    main()
