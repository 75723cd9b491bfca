# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option table: the only place where an option is named, typed, described and classed."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..plan import Change
from . import addresses, confinement, names, quantities, text
from .option import Option, record, records
from .values import Attachment, TimeOffset

LIVE, RESTART, REBUILD = Change.LIVE, Change.RESTART, Change.REBUILD

STATES = ("present", "started", "stopped", "absent")
SECCOMP_PROFILES = ("default", "unconfined")
RESTART_POLICIES = ("no", "on-failure", "always", "unless-stopped")
# The kernel's bound is 146 years from the clock's zero; a century leaves room to run.
MAX_OFFSET = 3_000_000_000
MAX_PIDS = 4_194_304
DAY = 86400

_NETWORK_FIELDS = (
    Option(
        "name",
        "str",
        names.network_name,
        ["Name of a network of the host."],
        required=True,
    ),
    Option(
        "ipv4_address",
        "str",
        addresses.interface_address,
        [
            "The sandbox's IPv4 address on this network, without a prefix.",
            "Without it, a free address is chosen once and kept.",
        ],
    ),
    Option(
        "mac_address",
        "str",
        addresses.mac,
        ["The interface's unicast MAC address. Without it, one is made from the sandbox's name."],
    ),
)

_seconds = partial(quantities.number, minimum=-MAX_OFFSET, maximum=MAX_OFFSET, digits=6)
_CLOCK_FIELDS = (
    Option("monotonic", "float", _seconds, ["Seconds added to C(CLOCK_MONOTONIC)."], default=0),
    Option("boottime", "float", _seconds, ["Seconds added to C(CLOCK_BOOTTIME)."], default=0),
)


def _networks(option: str, value: Any) -> tuple[Attachment, ...]:
    items = records(option, value, fields=_NETWORK_FIELDS, make=Attachment)
    return addresses.attachments(option, items)


def _dump_networks(items: tuple[Attachment, ...]) -> list[dict[str, Any]]:
    return [{key: x for key, x in vars(item).items() if x is not None} for item in items]


def _dump_offset(offset: TimeOffset | None) -> dict[str, float] | None:
    return dict(vars(offset)) if offset else None


def _strings(items: tuple[Any, ...]) -> list[str]:
    return [str(item) for item in items]


_IDENTITY = (
    Option(
        "name",
        "str",
        names.sandbox_name,
        [
            "Name of the sandbox, unique on its host.",
            "1 to 63 ASCII letters, digits, C(_), C(.) and C(-); a letter or digit first.",
        ],
        change=REBUILD,
        required=True,
    ),
    Option(
        "image",
        "str",
        names.image_name,
        [
            "Name of the image that is the sandbox's root filesystem.",
            "Required unless O(state=absent). Another image means a new, empty writable layer.",
        ],
        change=REBUILD,
    ),
    Option(
        "state",
        "str",
        partial(text.choice, choices=STATES),
        [
            "V(present) makes the sandbox and leaves it running or stopped as it is.",
            "V(started) also starts it, V(stopped) also stops it.",
            "V(absent) removes it with its writable layer.",
        ],
        default="started",
        choices=STATES,
    ),
    Option(
        "restart",
        "bool",
        text.flag,
        ["Whether to restart the sandbox even if nothing about it changed."],
        default=False,
    ),
    Option(
        "recreate",
        "bool",
        text.flag,
        [
            "Whether to make the sandbox anew even if nothing about it changed.",
            "Its writable layer is lost; name, addresses and ids stay.",
        ],
        default=False,
    ),
)

_WORKLOAD = (
    Option(
        "command",
        "raw",
        names.command,
        [
            "What to run, appended to O(entrypoint). A sandbox needs one of both.",
            "A list of arguments, or a string that is split into words as a shell does; "
            "no shell runs and nothing is expanded.",
        ],
        change=RESTART,
        default=[],
        dump=list,
    ),
    Option(
        "entrypoint",
        "raw",
        names.command,
        ["Program and arguments put before O(command); a list or a string, as there."],
        change=RESTART,
        default=[],
        dump=list,
    ),
    Option(
        "env",
        "dict",
        partial(names.pairs, key=names.environment_name, item=names.environment_value),
        ["Environment variables. Quote values that YAML would read as booleans or numbers."],
        change=RESTART,
        default={},
        dump=dict,
    ),
    Option(
        "working_dir",
        "str",
        names.absolute_path,
        ["Directory the workload starts in, an absolute path in the sandbox."],
        change=RESTART,
        default="/",
    ),
    Option(
        "user",
        "str",
        names.user,
        [
            "Who the workload runs as in the sandbox, as V(USER) or V(USER:GROUP).",
            "Each is a name from the image or an id from 0 to 65535; quote ids with a colon.",
        ],
        change=RESTART,
        default="0",
    ),
    Option(
        "hostname",
        "str",
        names.hostname,
        [
            "Host name inside the sandbox.",
            "Defaults to O(name), with V(-) for each character a host name can't have.",
        ],
        change=RESTART,
    ),
    Option(
        "tmpfs",
        "list",
        confinement.tmpfs,
        [
            "Filesystems in memory, each as V(PATH) or V(PATH:OPTIONS).",
            "Options are C(size=), C(nr_inodes=), C(mode=), C(uid=), C(gid=) and C(exec), "
            "separated by commas. They are mounted nosuid, nodev and, without C(exec), noexec.",
        ],
        change=RESTART,
        default=[],
        dump=_strings,
        elements="str",
    ),
    Option(
        "read_only",
        "bool",
        text.flag,
        ["Whether the root filesystem is mounted read-only."],
        change=RESTART,
        default=False,
    ),
)

_NETWORK = (
    Option(
        "networks",
        "list",
        _networks,
        [
            "Networks the sandbox is on, one interface each, in this order.",
            "An empty list leaves it with a loopback interface only.",
        ],
        change=RESTART,
        default=[{"name": "default"}],
        dump=_dump_networks,
        elements="dict",
        suboptions=_NETWORK_FIELDS,
    ),
    Option(
        "published_ports",
        "list",
        addresses.published_ports,
        [
            "Ports of the host that lead into the sandbox, each as "
            "V([HOST_IP:]HOST_PORT:PORT[/tcp|/udp]).",
            "Two ranges of one length publish port by port, up to "
            f"{addresses.MAX_PORTS} ports in all. Quote them: YAML reads V(53:53) as a number.",
        ],
        change=LIVE,
        default=[],
        dump=_strings,
        elements="str",
    ),
    Option(
        "etc_hosts",
        "dict",
        partial(names.pairs, key=addresses.hosts_name, item=addresses.address_text),
        ["Lines added to C(/etc/hosts), as host name to IP address."],
        change=LIVE,
        default={},
        dump=dict,
    ),
    Option(
        "dns_servers",
        "list",
        addresses.dns_servers,
        [
            f"Name servers, at most {addresses.MAX_SERVERS}.",
            "Without them, those of the first network are used.",
        ],
        change=LIVE,
        default=[],
        dump=list,
        elements="str",
    ),
)

_LIMITS = (
    Option(
        "memory",
        "str",
        partial(quantities.size, minimum=quantities.MEMORY_MINIMUM),
        [
            "Memory limit, at least V(6m); a number of bytes, or with a unit of "
            "V(b), V(k), V(m), V(g) or V(t).",
        ],
        change=LIVE,
    ),
    Option(
        "memory_swap",
        "str",
        quantities.swap,
        [
            "Limit of memory and swap together, not below O(memory), which it needs.",
            "V(-1) leaves swap without a limit.",
        ],
        change=LIVE,
    ),
    Option(
        "cpus",
        "float",
        partial(quantities.number, minimum=0.01, maximum=quantities.MAX_CPUS, digits=5),
        ["CPU time limit, in CPUs; V(0.5) is half of one."],
        change=LIVE,
    ),
    Option(
        "cpu_shares",
        "int",
        partial(quantities.integer, minimum=2, maximum=262144),
        ["Weight when CPUs are contended, from 2 to 262144; 1024 is that of other processes."],
        change=LIVE,
    ),
    Option(
        "cpuset_cpus",
        "str",
        quantities.cpu_set,
        ["CPUs the sandbox may run on, such as V(0-3) or V(0,2)."],
        change=LIVE,
    ),
    Option(
        "pids_limit",
        "int",
        partial(quantities.pids, maximum=MAX_PIDS),
        [
            "How many processes and threads may exist in the sandbox, its init included.",
            "V(-1) leaves it without a limit.",
        ],
        change=LIVE,
        default=2048,
    ),
    Option(
        "ulimits",
        "list",
        confinement.ulimits,
        [
            "Resource limits of each process, as V(NAME:SOFT:HARD) or V(NAME:BOTH).",
            "V(-1) is unlimited. Names are those of setrlimit(2), in lower case: V(nofile).",
        ],
        change=RESTART,
        default=[],
        dump=_strings,
        elements="str",
    ),
)

_SECURITY = (
    Option(
        "capabilities",
        "list",
        confinement.capabilities,
        [
            "Capabilities granted in the sandbox's own user namespace; without this, none.",
            "With or without C(CAP_), in any case. V(ALL) is refused.",
        ],
        change=RESTART,
        default=[],
        dump=list,
        elements="str",
    ),
    Option(
        "seccomp_profile",
        "str",
        partial(text.choice, choices=SECCOMP_PROFILES),
        ["System calls the sandbox may make; V(unconfined) leaves out the filter."],
        change=RESTART,
        default="default",
        choices=SECCOMP_PROFILES,
    ),
    Option(
        "sysctls",
        "dict",
        partial(names.pairs, key=confinement.sysctl_name, item=confinement.sysctl_value),
        [
            "Kernel parameters of the sandbox's namespaces.",
            "Only C(net.*), C(kernel.shm*), C(kernel.msg*), C(kernel.sem) and C(fs.mqueue.*).",
        ],
        change=RESTART,
        default={},
        dump=dict,
    ),
    Option(
        "time_offset",
        "dict",
        partial(record, fields=_CLOCK_FIELDS, make=TimeOffset),
        [
            "Gives the sandbox a time namespace, with clocks ahead of the host's by these seconds.",
            "Fractions count to the microsecond. Negative seconds turn a clock back, "
            "never below zero.",
        ],
        change=RESTART,
        dump=_dump_offset,
        suboptions=_CLOCK_FIELDS,
    ),
)

_SUPERVISION = (
    Option(
        "restart_policy",
        "str",
        partial(text.choice, choices=RESTART_POLICIES),
        ["When the workload is started again after it ended."],
        change=LIVE,
        default="unless-stopped",
        choices=RESTART_POLICIES,
    ),
    Option(
        "restart_retries",
        "int",
        partial(quantities.integer, minimum=0, maximum=2**31 - 1),
        ["How often O(restart_policy=on-failure) tries again; V(0) is without end."],
        change=LIVE,
        default=0,
    ),
    Option(
        "stop_signal",
        "str",
        quantities.signal_number,
        ["Signal that asks the workload to end, by name or number."],
        change=LIVE,
        default="SIGTERM",
        dump=quantities.signal_name,
    ),
    Option(
        "stop_timeout",
        "int",
        partial(quantities.integer, minimum=0, maximum=DAY),
        ["Seconds between O(stop_signal) and C(SIGKILL), up to a day."],
        change=LIVE,
        default=10,
    ),
    Option(
        "log_max_size",
        "str",
        partial(quantities.size, minimum=quantities.LOG_MINIMUM),
        ["How much of the workload's output is kept, at least V(64k)."],
        change=RESTART,
        default="10m",
    ),
    Option(
        "labels",
        "dict",
        partial(names.pairs, key=names.label_name, item=text.text),
        ["Names and values of your own, kept with the sandbox."],
        change=LIVE,
        default={},
        dump=dict,
    ),
)

OPTIONS: tuple[Option, ...] = _IDENTITY + _WORKLOAD + _NETWORK + _LIMITS + _SECURITY + _SUPERVISION
STORED: tuple[Option, ...] = tuple(option for option in OPTIONS if option.change is not None)
NAMES: tuple[str, ...] = tuple(option.name for option in OPTIONS)
BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}
