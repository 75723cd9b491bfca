# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths of proc and sysfs that a sandbox sees empty or read-only; a host may lack some of them."""

from __future__ import annotations

# Firmware, hardware, kernel memory, kernel logs and addresses, keys and timers of other tenants,
# and counters of interrupts and energy, which leak what a neighbour computes. Files of the host's
# root alone (slabinfo, kpagecount) need no mask: a sandbox's root is another user.
MASKED: tuple[str, ...] = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/boot_params",
    "/sys/kernel/debug",
    "/sys/kernel/notes",
    "/sys/kernel/tracing",
    "/sys/kernel/vmcoreinfo",
)

# All of /proc/sys, so also the sandbox's own net.*: the `sysctls` option sets those beforehand.
READONLY: tuple[str, ...] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
