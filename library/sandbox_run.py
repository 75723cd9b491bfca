#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_run
short_description: Run a command in a sandbox of its own
version_added: 0.1.0
author: the sandlot developers (@sandlot)
description:
  - Runs one command in a new sandbox, waits for it, returns its output and exit code, and
    removes the sandbox with all that the command wrote.
  - The sandbox has no network unless O(network_mode) gives it one, and the security profile
    of its image. All processes of the job end with the command. C(sandlot run) does the
    same on the host.
  - An exit code other than 0 is a failure, as in M(ansible.builtin.command).
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
    support: partial
    details: A check runs nothing. It refuses options, images and networks as a run does.
  diff_mode:
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: none
  platform:
    platforms: linux
options:
  image:
    description:
      - The image, one of this host. V(NAME@sha256:DIGEST) fails when the image has another
        digest.
    type: str
    required: true
  argv:
    description:
      - Program and arguments as a list. Without it and O(command), the image's own run.
    type: list
    elements: str
  stdin:
    description:
      - Text for the standard input of the command, which is empty otherwise. No newline
        is added.
    type: str
  timeout:
    description:
      - Seconds after which the job is ended, with the exit code 124. The command gets SIGTERM,
        and all of the job SIGKILL five seconds later.
    type: float
  output_limit:
    description:
      - The most that the command may write to both outputs, as V(512k) or V(10m). It is
        killed when it writes more, and the task fails.
    type: str
    default: 10m
  command:
    description:
      - Program and arguments, put after O(entrypoint); a list, or a string that is split
        into words as a shell does. No shell runs, and nothing is expanded.
      - Without it and O(argv), the command of the image, unless O(entrypoint) is set.
    type: raw
  env:
    description:
      - Environment variables, beside those of the image. Quote values that YAML would read
        as booleans or numbers; others than text are refused.
      - Results and messages hide their values, and nothing on the host keeps them.
    type: dict
  entrypoint:
    description:
      - Program and arguments put before O(command); a list or a string, as there.
      - Without it, that of the image is used. With it, the image's command is not.
    type: raw
  working_dir:
    description:
      - Directory the workload starts in, an absolute path in the sandbox.
      - Without it, that of the image, else V(/).
    type: str
  user:
    description:
      - User of the workload in the sandbox, as V(USER) or V(USER:GROUP).
      - Each is a name from the image or an id from 0 to 65535; quote ids with a colon.
      - A group that is given is the only one; without it, the user has all of its groups.
      - Without this option, the user of the image, else V(0).
    type: str
  hostname:
    description:
      - Host name inside the sandbox, V(job-N) by default.
    type: str
  tmpfs:
    description:
      - Filesystems in memory, each as V(PATH) or V(PATH:OPTIONS).
      - Options are C(size=), C(nr_inodes=), C(mode=), C(uid=), C(gid=), C(exec) and
        C(tmpcopyup),
        separated by commas. They are mounted nosuid, nodev and, without C(exec), noexec.
      - Links of the image on the way are followed inside the sandbox.
      - They start empty, with C(tmpcopyup) with the files that the image has there. Without
        an entry for it, C(/tmp) is V(/tmp:exec,tmpcopyup), also on a read-only root.
    type: list
    elements: str
  read_only:
    description:
      - Whether the root filesystem is mounted read-only.
      - C(/tmp), C(/run) and C(/var/tmp) are then file systems in memory, with the files
        that the image has there, unless O(tmpfs), O(volumes) or O(mounts) has an entry
        for them.
      - Defaults to V(false).
    type: bool
  volumes:
    description:
      - Volumes and paths of the host, each as V(SOURCE:TARGET) or V(SOURCE:TARGET:WORDS).
      - A source with a leading slash is a path of the host; another one is the name of
        a volume of the host, which has to exist.
      - Words, separated by commas, are C(ro), C(rw), C(noexec), for volumes C(nocopy),
        for paths of the host C(idmap) and those of O(mounts[].propagation).
    type: list
    elements: str
  mounts:
    description:
      - Mounts beside those of O(volumes), in the notation of docker_container.
      - All are mounted nosuid and nodev. Links of the image on the way to a target are
        followed inside the sandbox.
    type: list
    elements: dict
    suboptions:
      type:
        description:
          - V(volume), a path of the host (V(bind)), or a file system in memory (V(tmpfs)).
          - Defaults to V(volume).
        type: str
        choices: [volume, bind, tmpfs]
      target:
        description:
          - Absolute path in the sandbox.
        type: str
        required: true
      source:
        description:
          - Name of the volume, or path of the host.
        type: str
      read_only:
        description:
          - Whether nobody in the sandbox may write there.
        type: bool
      no_exec:
        description:
          - Whether no program may be started from there.
        type: bool
      no_copy:
        description:
          - Whether an empty volume stays empty, and does not take the files of the image
            there.
        type: bool
      subpath:
        description:
          - Directory in the volume that is mounted.
        type: str
      propagation:
        description:
          - Whether mounts that the host makes below the source later appear in the sandbox,
            with the flags that they have on the host.
          - With V(rslave) and V(slave) they do; with V(rprivate), the default, and V(private)
            they don't.
        type: str
        choices: [private, rprivate, slave, rslave]
      idmap:
        description:
          - 'Whether a bind mount has the ids inside, as a volume: root of the sandbox is
            then root (0) in the files of the host.'
        type: bool
      tmpfs_size:
        description:
          - Size of the tmpfs, as V(64m).
        type: str
      tmpfs_mode:
        description:
          - Mode of the tmpfs in octal, as V('1777').
        type: str
      tmpfs_options:
        description:
          - Further options of the tmpfs, as in O(tmpfs).
        type: list
        elements: str
  network_mode:
    description:
      - V(none), with C(lo) alone; or V(container:NAME) for the network of a sandbox.
      - Defaults to V(none), unless O(networks) is set.
    type: str
  memory:
    description:
      - Memory limit, at least V(6m); a number of bytes, or with a unit of V(b), V(k), V(m),
        V(g) or V(t). O(memory_swap) bounds swap.
      - It includes the buffers of network sockets; version 1 of cgroups counts those apart,
        up to the same limit.
    type: str
  memory_swap:
    description:
      - Limit of memory and swap together, not below O(memory), which it needs.
      - 'Without it, twice O(memory): the sandbox swaps as much as it has of memory. The
        same as O(memory) is no swap, V(-1) leaves swap without a limit.'
    type: str
  cpus:
    description:
      - CPU time limit, in CPUs; V(0.5) is half of one.
    type: float
  cpu_shares:
    description:
      - Weight when CPUs are contended, from 2 to 262144; 1024 is that of other processes.
    type: int
  cpuset_cpus:
    description:
      - CPUs the sandbox may run on, such as V(0-3) or V(0,2).
    type: str
  pids_limit:
    description:
      - How many processes and threads may exist in the sandbox, its init included.
      - V(-1) leaves it without a limit.
      - Defaults to V(2048).
    type: int
  ulimits:
    description:
      - Resource limits of each process, as V(NAME:SOFT:HARD) or V(NAME:BOTH).
      - 'V(-1) is unlimited. Names are those of setrlimit(2), in lower case: V(nofile).'
    type: list
    elements: str
  disk_size:
    description:
      - The most that the sandbox may write into its root, at least V(16m), in the notation
        of O(memory).
      - 'The kernel enforces it: by a project quota where the file system has one, else
        by a file system of that size in a sparse file. Where neither works it is refused,
        as it is for roots in memory.'
      - A change by which the layer has to move restarts the sandbox.
    type: str
  security_profile:
    description:
      - Capabilities that the root user of the sandbox has in the sandbox's own user namespace.
        V(strict) has none.
      - 'V(daemon) has what servers need that start as root: CHOWN, DAC_OVERRIDE, FOWNER,
        FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, SETFCAP.'
      - By default V(daemon) for images of source V(oci), V(strict) for all others.
    type: str
    choices: [strict, daemon]
  capabilities:
    description:
      - Capabilities granted in the sandbox's own user namespace, to any user, beyond those
        of O(security_profile).
      - With or without C(CAP_), in any case. V(ALL) is refused.
    type: list
    elements: str
  no_new_privileges:
    description:
      - 'Whether programs are kept from gaining rights when they start: set-user-id bits
        and file capabilities then have no effect.'
      - V(false) lets C(sudo), C(su) and such work inside, within the capabilities of
        O(security_profile)
        and O(capabilities), and is listed in C(relaxed).
      - Defaults to V(true).
    type: bool
  seccomp_profile:
    description:
      - System calls the sandbox may make; V(unconfined) leaves out the filter.
      - Defaults to V(default).
    type: str
    choices: [default, unconfined]
  seccomp_architectures:
    description:
      - More architectures of programs that the sandbox may run. V(x86) stands for 32-bit
        programs on x86_64. Without this, the filter refuses each of their calls, and they
        die of C(SIGSEGV).
      - 'The same policy holds for them, except for families of sockets: 32-bit programs
        name them in memory, and a filter sees registers only.'
    type: list
    elements: str
    choices: [x86]
  devices:
    description:
      - Devices of the host, as C(HOST_PATH:PATH_INSIDE:MODE). C(PATH_INSIDE) is below C(/dev),
        and C(HOST_PATH) by default; C(MODE) is of C(r), C(w) and C(m), by default all.
      - The node inside has the owner, group and permissions of the host's, by number, as
        far as the mode allows. The cgroup of the sandbox then denies all other devices.
      - Each is listed in C(relaxed). Refused are block devices that the host uses, and
        devices that are the host's own, as C(/dev/mem).
    type: list
    elements: str
  sysctls:
    description:
      - Kernel parameters of the sandbox's namespaces.
      - Only C(net.*), C(kernel.shm*), C(kernel.msg*), C(kernel.sem) and C(fs.mqueue.*).
    type: dict
  time_offset:
    description:
      - Gives the sandbox a time namespace, with clocks ahead of the host's by these seconds.
      - Fractions count to the microsecond. Negative seconds turn a clock back, never below
        zero.
    type: dict
    suboptions:
      monotonic:
        description:
          - Seconds added to C(CLOCK_MONOTONIC).
          - Defaults to V(0).
        type: float
      boottime:
        description:
          - Seconds added to C(CLOCK_BOOTTIME).
          - Defaults to V(0).
        type: float
  networks:
    description:
      - Networks of the host that the job is on, as for a sandbox, in place of O(network_mode).
        Such a job takes as long as a deploy of a sandbox.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of a network of the host.
        type: str
        required: true
      ipv4_address:
        description:
          - The sandbox's IPv4 address on this network, without a prefix.
          - Without it, a free address is chosen once and kept.
        type: str
      ipv6_address:
        description:
          - The sandbox's IPv6 address on this network, without a prefix.
          - Without it, a free address is chosen once and kept if the network has IPv6.
        type: str
      mac_address:
        description:
          - The interface's unicast MAC address. Without it, one is made from the sandbox's
            name.
        type: str
      aliases:
        description:
          - More names by which sandboxes on this network find this one.
          - No other sandbox on the network may have them as name or alias.
        type: list
        elements: str
  etc_hosts:
    description:
      - Lines added to C(/etc/hosts), as host name to IP address.
      - A name of a neighbour, or of the sandbox itself, then has this address only.
    type: dict
  dns_servers:
    description:
      - Name servers, at most 3.
      - Without them, those of the first network that has any, else those of the host that
        can be reached from a sandbox.
      - Servers of a family that the sandbox has no address of are left out.
    type: list
    elements: str
  egress:
    description:
      - All that the sandbox may reach beyond its own networks, instead of what its networks
        say; an empty list is nothing.
      - Entries are those of C(egress) of a network, such as V(203.0.113.0/24),
        V(198.51.100.7:443/tcp),
        V(deb.example.org:443), V(53/udp) or V(dns).
    type: list
    elements: raw
  host_access:
    description:
      - Services of the host that the sandbox reaches at the gateway addresses of its networks,
        such as V(9100/tcp), instead of what its networks say.
    type: list
    elements: raw
"""

EXAMPLES = r"""
- name: Run an untrusted script with little of everything
  sandlot.sandlot.sandbox_run:
    image: busybox
    argv: [sh]
    stdin: |
      echo hello
    memory: 64m
    cpus: 0.5
    pids_limit: 20
    timeout: 10

- name: Look into a volume
  sandlot.sandlot.sandbox_run:
    image: busybox
    command: du -sh /data
    volumes: ["data:/data:ro"]
    user: nobody
"""

RETURN = r"""
cmd:
  description: The command, without the entry point of the image.
  returned: always
  type: list
  elements: str
rc:
  description:
    - The exit code of the command; 128 + n after signal n.
    - V(124) after O(timeout), V(126) and V(127) when the command can't be run or is missing,
      V(137) when all of the job was killed.
  returned: always
  type: int
stdout:
  description: The standard output of the command; U+FFFD stands for bytes that are no UTF-8.
  returned: always
  type: str
stdout_lines:
  description: The same, split into lines.
  returned: always
  type: list
  elements: str
stderr:
  description: The standard error of the command.
  returned: always
  type: str
stderr_lines:
  description: The same, split into lines.
  returned: always
  type: list
  elements: str
timed_out:
  description: Whether the job was ended after O(timeout).
  returned: always
  type: bool
oom_killed:
  description: Whether processes of the job were killed as it had used up its O(memory).
  returned: always
  type: bool
duration:
  description: The seconds that the command ran.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_run", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
