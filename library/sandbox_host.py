#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_host
short_description: Install, upgrade or remove the runtime on a host
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Puts the engine into C(/usr/local/lib/sandlot), the command into C(/usr/local/bin/sandlot) and,
    where systemd runs, the units C(sandlot.service) and C(sandlot-up.service), from the files of
    this very module. Where sudo looks for no command below C(/usr/local), as in Debian sid, the
    link C(/usr/sbin/sandlot) leads to it.
  - Where OpenRC or sysvinit is instead, the service C(sandlot) does the same job. Where there is
    none of them, the launcher is started on demand, and sandboxes are started after a boot by
    whoever calls C(sandlot up).
  - A running launcher takes over a new version in place; sandboxes go on.
  - Returns what the host can do and what it lacks.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  action_group:
    description: Is in an action group, for defaults by C(module_defaults).
    support: full
    membership: [sandlot.sandlot.sandbox]
  async:
    description: Can run in the background, by C(async).
    support: partial
    details: Not with O(packages=install).
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
  platform:
    platforms: linux
options:
  state:
    description:
      - V(absent) removes all that sandlot put on the host, its images and networks included.
        It is refused while there are sandboxes.
    type: str
    choices: [present, absent]
    default: present
  image_sources:
    description:
      - The sources of the host's images, as the option C(source) of
        M(sandlot.sandlot.sandbox_rootfs).
      - RV(missing_packages) then has what these sources need, too.
    type: list
    elements: str
    default: []
  packages:
    description:
      - V(install) installs the Debian packages that are missing, with M(ansible.builtin.apt).
      - V(require) fails where one is missing, once the runtime is installed.
      - V(report) leaves that to who reads RV(missing_packages).
      - Only of use with O(state=present).
    type: str
    choices: [install, require, report]
    default: report
"""

EXAMPLES = r"""
- name: Install or upgrade the runtime
  sandlot.sandlot.sandbox_host:

- name: Install Debian packages as well, also those that images from a registry need
  sandlot.sandlot.sandbox_host:
    image_sources: [busybox, oci]
    packages: install

- name: Remove the runtime
  sandlot.sandlot.sandbox_host:
    state: absent
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["runtime: install version 3f1c9a2b7d10", "runtime: upgrade the launcher"]
kernel:
  description: Release of the kernel.
  returned: always
  type: str
  sample: 6.1.0-30-amd64
machine:
  description: Architecture of the kernel.
  returned: always
  type: str
  sample: x86_64
python:
  description: Interpreter of the runtime, its version, and whether and which pyroute2 it finds.
  returned: always
  type: dict
  sample: {executable: /usr/bin/python3, version: 3.11.2, pyroute2: true, pyroute2_version: 0.9.7}
cgroups:
  description:
    - Versions of cgroups that have controllers, and the controllers.
    - C(shown) are those whose files sandboxes find below C(/sys/fs/cgroup), none where the kernel
      does not let a user namespace mount them.
  returned: always
  type: dict
  sample:
    versions: [2]
    controllers: [cpu, cpuset, io, memory, pids]
    shown: [cpu, cpuset, io, memory, pids]
lxcfs:
  description: Whether lxcfs is mounted at C(/var/lib/lxcfs), for the option C(lxcfs) of sandboxes.
  returned: always
  type: bool
idmapped_mounts:
  description:
    - Whether the file system of the state directory can map ids on a mount.
    - Without it each sandbox gets a copy of its image.
  returned: always
  type: bool
overlay:
  description: Whether the kernel has overlayfs.
  returned: always
  type: bool
sizes:
  description:
    - How the host enforces sizes of volumes and layers (C(disk_size)).
    - C(name) is V(project) for project quotas of the file system, V(file) for a file system in a
      sparse file, empty if sizes are refused; C(detail) says why, C(remedy) what can be done.
  returned: always
  type: dict
  sample:
    name: project
    detail: project quotas of the file system at /var/lib/sandlot
    remedy: ""
user_namespaces:
  description: How many user namespaces the host allows.
  returned: always
  type: int
nft:
  description: Path of nft.
  returned: when it is installed
  type: str
service_manager:
  description:
    - The service manager that starts the sandboxes at boot, V(systemd), V(openrc), V(sysvinit)
      or V(none).
  returned: always
  type: str
  sample: systemd
missing_packages:
  description: Debian packages that have to be installed before sandboxes can be made.
  returned: always
  type: list
  elements: str
  sample: [nftables]
checks:
  description: The findings of C(sandlot doctor).
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The subject., type: str}
    status: {description: V(ok) or V(warning) or V(failure)., type: str}
    detail: {description: The finding., type: str}
    remedy: {description: The remedy., type: str}
  sample:
    - {name: cgroup controllers, status: ok, detail: "version 2: cpu io memory pids", remedy: ""}
problems:
  description: Faults of the host, each with C(what) and C(remedy).
  returned: always
  type: list
  elements: dict
  sample:
    - what: user namespaces are disabled
      remedy: set the sysctl user.max_user_namespaces, for instance to 10000
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_host", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
