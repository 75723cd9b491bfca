# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The options of a sandbox that a job has, too."""

from __future__ import annotations

NAMES = (
    *("entrypoint", "working_dir", "user", "hostname", "tmpfs", "read_only", "volumes", "mounts"),
    *("network_mode", "networks", "etc_hosts", "dns_servers", "egress", "host_access"),
    *("memory", "memory_swap", "cpus", "cpu_shares", "cpuset_cpus", "pids_limit"),
    *("ulimits", "disk_size", "security_profile", "capabilities", "no_new_privileges"),
    *("seccomp_profile", "seccomp_architectures", "devices", "sysctls", "time_offset"),
)
