#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_info
short_description: Read what sandboxes a host has and how they do
version_added: "0.1.0"
author: the sandlot developers (@sandlot)
description:
  - Reads the records and the kernel; asks no process, takes no lock and changes nothing.
  - A sandbox with an unreadable record is returned with the state V(broken) and the reason.
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
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
  platform:
    platforms: linux
options:
  names:
    description:
      - Sandboxes to return; all of the host without it. Unknown names are left out of the result.
    type: list
    elements: str
    aliases: [name]
  sizes:
    description:
      - Whether to look at the files of sandboxes and volumes, and return their sizes. That
        may take half a second for each of them.
    type: bool
    default: false
  audit:
    description:
      - Whether to compare the sandboxes, as the kernel shows them, with what was deployed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Read all sandboxes
  sandlot.sandlot.sandbox_info:
  register: found

- name: Show their addresses
  ansible.builtin.debug:
    msg: "{{ found.sandboxes | map(attribute='addresses') | flatten }}"
"""

RETURN = r"""
sandboxes:
  description: The sandboxes in the order of their names.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the sandbox.
      type: str
      returned: always
    state:
      description:
        - State of the workload, V(starting), V(running), V(backoff), V(crash-loop) or V(stopping)
          while init runs. V(restarting) is the first minute after two restarts or more.
        - V(exited) or V(crashed) when it ended, V(stopped) on demand (by the host, such as for a
          shutdown, when V(started) is RV(sandboxes[].wanted)), V(created) before its first start,
          V(down) when it was not started since the host's boot, V(removing), or V(broken).
      type: str
      returned: always
    error:
      description: Why the record can't be used.
      type: str
      returned: when the state is V(broken)
    wanted:
      description: Whether the sandbox is to run, V(started) or V(stopped).
      type: str
      returned: success
    image:
      description: Name of its image.
      type: str
      returned: success
    network_mode:
      description: Owner of the network that it shares.
      type: str
      returned: success
    addresses:
      description: Its IPv4 addresses.
      type: list
      elements: str
      returned: success
    interfaces:
      description: Its interfaces with network, name, host side, MAC, address and gateway.
      type: list
      elements: dict
      returned: success
    published_ports:
      description: Ports of the host that lead into it.
      type: list
      elements: str
      returned: success
    ids:
      description: First id and size of its range of subordinate ids.
      type: dict
      returned: success
    pid:
      description: Its init, as the host sees it.
      type: int
      returned: success
    uptime:
      description: Seconds since the workload's state last changed.
      type: float
      returned: success
    memory:
      description: Memory in use in bytes.
      type: int
      returned: success
    cpu_seconds:
      description: Time of processors that it has used since it was made. V(null) while it is down.
      type: float
      returned: success
    started:
      description: When its init started, in seconds since 1970. V(null) while it is down.
      type: float
      returned: success
    health:
      description:
        - V(starting), V(healthy) or V(unhealthy) while it runs with a healthcheck.
      type: str
      returned: success
    failing_streak:
      description: How many checks in a row have failed.
      type: int
      returned: success
    health_output:
      description: The end of what the last check printed or was answered, escaped.
      type: str
      returned: success
    restarts:
      description: How often the workload was started again after it ended or was unhealthy.
      type: int
      returned: success
    exit_code:
      description: Last exit code of the workload, 128 + n after signal n.
      type: int
      returned: success
    signal:
      description: Number of the signal that ended it last, if one did.
      type: int
      returned: success
    oom_kills:
      description: How often the kernel killed in it for memory since it was made.
      type: int
      returned: success
    disk:
      description:
        - The limit of C(disk_size) that is in force, and what the
          layer holds, in bytes; null without one.
        - C(way) is C(project) or C(file), as in C(sizes) of M(sandlot.sandlot.sandbox_host).
      type: dict
      returned: success
      sample: {way: project, size: 2147483648, used: 52428800}
    cgroups_shown:
      description:
        - The controllers whose files it finds below C(/sys/fs/cgroup), its own limits in them. None
          where the kernel does not let it mount them. V(null) while it does not run.
      type: list
      elements: str
      returned: success
    crash:
      description:
        - How the workload of a sandbox that is to run ended by itself (C(what)), and a likely
          remedy (C(remedy), which may be empty). V(null) while it runs well.
      type: dict
      returned: success
    last_log:
      description: The last five lines of its log, shortened and escaped.
      type: list
      elements: str
      returned: success
    relaxed:
      description: Relaxations of the default confinement.
      type: list
      elements: str
      returned: success
    volumes:
      description: The volumes that it has, by target, those for a VOLUME of its image too.
      type: dict
      returned: success
    layer_size:
      description: Bytes that it wrote to its layer, at least.
      type: int
      returned: with O(sizes)
    labels:
      description: Its labels.
      type: dict
      returned: success
    snapshots:
      description:
        - Its snapshots, oldest first, with C(id), C(created), C(reason), C(size), C(files).
          An unusable one has C(id) and C(error).
      type: list
      elements: dict
      returned: success
    spec:
      description: Its normalised spec; digests stand for the values of C(env).
      type: dict
      returned: success
audit:
  description: The comparison of the sandboxes with what was deployed.
  returned: with O(audit)
  type: dict
  contains:
    shown:
      description:
        - What the kernel shows of each sandbox, a line for each of C(state), C(version),
          C(namespaces), C(ids), C(confinement), C(mounts), C(limits) and C(addresses).
      type: dict
      returned: always
    findings:
      description:
        - Each difference, with C(sandbox), C(aspect), C(expected) and C(actual). The aspect
          C(repair) has what C(sandlot repair) would do. One that concerns no single sandbox has an
          empty C(sandbox).
        - C(action) is the line in C(actions) of a deploy that would end it, empty where none is
          known.
      type: list
      elements: dict
      returned: always
      sample:
        - sandbox: web
          aspect: mounts
          expected: mount /data
          actual: mount missing
          action: ""
    digests:
      description:
        - The digests of what each sandbox is started with, C(recorded) by the last deploy, and
          C(running). The latter is V(null) while it is down.
      type: dict
      returned: always
    host:
      description:
        - The C(kernel), the version of C(sandlot), C(memory) in bytes, the number of C(cpus), the
          digest of the packet filter's C(rules) in force, empty without them, and the C(time) in
          seconds since 1970.
      type: dict
      returned: always
volumes:
  description: All volumes of the host in the order of their names.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name of the volume., type: str}
    size: {description: The most that it may hold in bytes. V(null) without a limit., type: int}
    labels: {description: Its labels., type: dict}
    created: {description: When it was made in seconds since 1970., type: float}
    path: {description: Its files on the host., type: str}
    used_by: {description: The sandboxes that use it., type: list, elements: str}
    sandbox: {description: 'The sandbox for which it was made, of a VOLUME of an image.', type: str}
    target: {description: 'The path of that VOLUME.', type: str}
    used: {description: 'Bytes that it holds, with O(sizes).', type: int}
    more: {description: 'Whether it holds more files than were counted, with O(sizes).', type: bool}
    enforced_by:
      description: How the size is enforced, V(project) (quota) or V(file), with O(sizes).
      type: str
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_info", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
