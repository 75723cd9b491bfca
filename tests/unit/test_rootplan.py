# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The root of a sandbox as data: a launch file's plan, and that explain prints all of it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from sandlot.build import (
    cgroupfs,
    host_devices,
    log_files,
    lxcfs,
    machine_id,
    mounting,
    operations,
    rootplan,
    stacking,
)
from sandlot.cli import recipe

IDS = {"uid": 200000, "gid": 200000, "size": 65536}
LAUNCH: dict[str, Any] = {
    "ids": IDS,
    "lower": ["/images/top", "/images/base"],
    "idmap": True,
    "upper": "/state/a/layer/upper",
    "tmpfs": {},
    "readonly": ["/proc/sys"],
    "masked": ["/proc/kcore"],
    "files": {"/etc/hosts": "/run/a/etc/hosts"},
    "cwd": "/srv",
    "read_only": False,
}
SAFE = "nosuid,nodev,noexec"
TREE = [
    ("Tree", "/images/top", "/lower0", IDS),
    ("Tree", "/images/base", "/lower1", IDS),
]
LAYER = ("Layer", "/state/a/layer", {}, IDS, 0o755)
MACHINE_ID = ("MachineId", [])
OVERLAY = (
    *("Overlay", "/merged", ["/lower0", "/lower1"]),
    *("/layer", "index=off,metacopy=off", 200000, False, False),
)
SYSFS = ("Filesystem", "sysfs", "/sys", f"ro,{SAFE}", {})
TMP = ("CopiedUp", "tmpfs", "/tmp", "nosuid,nodev", rootplan.TMPFS, IDS, False)
OWN = (
    *("OwnFiles", rootplan.DEVICES, IDS),
    {"mode": "755", "size": "64k", "nr_inodes": "96"},
)
PLAIN = [
    *TREE,
    LAYER,
    OVERLAY,
    MACHINE_ID,
    ("Filesystem", "proc", "/proc", SAFE, {}),
    SYSFS,
    OWN,
    *(("Link", *link) for link in rootplan.DEV_LINKS.items()),
    ("Filesystem", "devpts", "/dev/pts", "nosuid,noexec", rootplan.DEVPTS),
    ("Filesystem", "tmpfs", "/dev/shm", SAFE, {"mode": "1777", "size": "64m"}),
    ("Filesystem", "mqueue", "/dev/mqueue", SAFE, {}),
    ("ReadOnly", "/proc/sys"),
    ("Mask", "/proc/kcore"),
    TMP,
    ("File", "/etc/hosts", "/run/a/etc/hosts"),
    ("Directory", "/srv"),
]


def replaced(old: tuple[Any, ...], *new: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    place = PLAIN.index(old)
    return [*PLAIN[:place], *new, *PLAIN[place + 1 :]]


def tmpfs(path: str, flags: str, **options: str) -> tuple[Any, ...]:
    return ("Filesystem", "tmpfs", path, flags, {**rootplan.TMPFS, **options})


NETNS = {"mode": "container:db", "path": "/run/db/ns/net"}
CHOICE = {"show": ["/srv"], "hide": []}
NULL = {"source": "/dev/null", "path": "/dev/x", "access": "r", "kind": "c", "number": [1, 3]}
MQUEUE = next(row for row in PLAIN if row[1:2] == ("mqueue",))
READ_ONLY = replaced(
    TMP,
    (*TMP[:2], "/run", TMP[3], {**rootplan.TMPFS, "mode": "755"}, *TMP[5:]),
    TMP,
    (*TMP[:2], "/var/tmp", *TMP[3:]),
)
MOUNTS: list[dict[str, Any]] = [
    {"type": "volume", "target": "/data", "source": "a", "path": "/volumes/a/data"},
    {"type": "bind", "target": "/etc/hosts", "source": "/srv/h", "path": "/srv/h", "idmap": True},
    {"type": "bind", "target": "/data/b", "source": "/b", "path": "/b", "propagation": "rslave"},
    {"type": "tmpfs", "target": "/data/b/c", "options": "size=4k,noexec"},
]
CASES: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]]]] = {
    "plain": ({}, PLAIN),
    "read-only": ({"read_only": True}, [*READ_ONLY, ("ReadOnlyRoot", False)]),
    "read-only with a mount in place of a file system in memory": (
        {"read_only": True, "mounts": [{"target": "/run", "options": ""}]},
        [
            *(tmpfs("/run", "nosuid,nodev") if row[2:3] == ("/run",) else row for row in READ_ONLY),
            ("ReadOnlyRoot", False),
        ],
    ),
    "mounts": (
        {"mounts": MOUNTS, "tmpfs": {"/data/x": ""}, "directories": ["/data"]},
        [
            *PLAIN[: PLAIN.index(TMP)],
            ("Stage",),
            ("Mounted", MOUNTS[0], "/mounts/0", IDS, None),
            TMP,
            ("Mounted", MOUNTS[2], "/mounts/1", IDS, "/data"),
            ("MemoryInside", tmpfs("/data/x", "nosuid,nodev"), "/data"),
            ("Mounted", MOUNTS[1], "/mounts/2", IDS, None),
            ("MemoryInside", tmpfs("/data/b/c", "nosuid,nodev,noexec", size="4k"), "/data/b"),
            PLAIN[-1],
        ],
    ),
    "new privileges": (
        {"read_only": True, "no_new_privileges": False},
        [
            *((*OVERLAY[:-1], True) if row == OVERLAY else row for row in READ_ONLY),
            ("ReadOnlyRoot", True),
        ],
    ),
    "first version": (
        {"lower": "/images/one", "idmap": False},
        [
            ("Tree", "/images/one", "/lower0", None),
            LAYER,
            (*OVERLAY[:2], ["/lower0"], *OVERLAY[3:]),
            *PLAIN[4:],
        ],
    ),
    "joined network": ({"netns": NETNS}, replaced(SYSFS, ("JoinedSysfs", NETNS))),
    "cgroups of version 1": (
        {"shown": ["memory", "cpu,cpuacct"]},
        replaced(OWN, OWN, ("Cgroups", ["memory", "cpu,cpuacct"])),
    ),
    "cgroups of version 2": ({"shown": [""]}, replaced(OWN, OWN, ("Cgroups", [""]))),
    "lxcfs": (
        {"lxcfs": True},
        replaced(("Mask", "/proc/kcore"), ("Mask", "/proc/kcore"), ("Lxcfs", "/var/lib/lxcfs")),
    ),
    "devices": (
        {"devices": [NULL]},
        [
            (*row[:-1], {**row[-1], "nr_inodes": "100"}) if row == OWN else row
            for row in replaced(MQUEUE, MQUEUE, ("HostDevices", [NULL], IDS))
        ],
    ),
    "published image": (
        {"directories": ["/data"], "log_files": True},
        [
            *PLAIN[: PLAIN.index(TMP)],
            ("LogFiles",),
            *PLAIN[PLAIN.index(TMP) : -1],
            ("Directory", "/data"),
            PLAIN[-1],
        ],
    ),
    "layer in memory": (
        {"tmpfs_root": "size=1048576,mode=0711"},
        [
            *TREE,
            (*LAYER[:2], {"size": "1048576", "mode": "0711"}, IDS, 0o711),
            *PLAIN[3:],
        ],
    ),
    "on the host's root": (
        {"lower": [], "host_root": CHOICE},
        [
            ("Tree", "/", "/host", IDS),
            ("HostMask", "/host_mask", "mask", IDS, CHOICE),
            ("HostMask", "/host_rest", "rest", IDS, CHOICE),
            ("Overlay", "/public_host", ["/host_rest", "/host"], "", "index=off", 0, True, False),
            ("HostMask", "/host_ways", "ways", IDS, CHOICE),
            ("Overlay", "/shown_host", ["/host_ways", "/host"], "", "index=off", 0, False, False),
            LAYER,
            (*OVERLAY[:2], ["/host_mask", "/shown_host", "/public_host"], *OVERLAY[3:]),
            *PLAIN[4:],
        ],
    ),
    "on the host's root as others see it": (
        {"lower": [], "host_root": {"show": [], "hide": []}},
        [
            ("Tree", "/", "/host", IDS),
            ("HostMask", "/host_mask", "mask", IDS, {"show": [], "hide": []}),
            ("HostMask", "/host_rest", "rest", IDS, {"show": [], "hide": []}),
            ("Overlay", "/public_host", ["/host_rest", "/host"], "", "index=off", 0, True, False),
            LAYER,
            (*OVERLAY[:2], ["/host_mask", "/public_host"], *OVERLAY[3:]),
            *PLAIN[4:],
        ],
    ),
    "tmpfs": (
        {
            "tmpfs": {
                "/a": "size=1m,noexec",
                "/b": "mode=700,exec,rw,nosuid",
                "/c": "size=1m,tmpcopyup",
                "/tmp": "nr_inodes=7,ro,uid=3",
            }
        },
        replaced(
            TMP,
            tmpfs("/a", SAFE, size="1m"),
            tmpfs("/b", "nosuid,nodev", mode="700"),
            ("CopiedUp", *tmpfs("/c", "nosuid,nodev", size="1m")[1:], IDS, True),
            tmpfs("/tmp", "ro,nosuid,nodev", nr_inodes="7", uid="3"),
        ),
    ),
}


def row(operation: operations.RootOperation) -> tuple[Any, ...]:
    """An operation as its class and fields; flags of mounts by name."""
    fields = dict(vars(operation))
    if "flags" in fields:
        names = [name for name, flag in operations.FLAGS.items() if fields["flags"] & flag]
        fields["flags"] = ",".join(names)
    if fields.get("below"):
        fields["below"] = fields["below"].entry["target"]
    if "memory" in fields:
        fields["memory"] = row(fields["memory"])
    return (type(operation).__name__, *fields.values())


def planned(launch: dict[str, Any]) -> list[operations.RootOperation]:
    return rootplan.plan(launch, launch.get("shown", ()), "/var/lib/lxcfs")


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
def test_plan(changes: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    assert [row(operation) for operation in planned({**LAUNCH, **changes})] == expected


MODULES = (
    *(operations, stacking, mounting, machine_id, cgroupfs),
    *(lxcfs, log_files, host_devices),
)
CLASSES = [
    value
    for module in (
        operations,
        stacking,
        machine_id,
        cgroupfs,
        lxcfs,
        log_files,
        host_devices,
        mounting,
    )
    for value in vars(module).values()
    if inspect.isclass(value)
    and issubclass(value, operations.RootOperation)
    and value is not operations.RootOperation
]


@pytest.mark.parametrize("operation", CLASSES)
def test_an_operation_runs_and_prints_each_of_its_steps(operation: type) -> None:
    own = vars(operation)
    assert ("apply" in own) == ("command" in own)
    # A script may name a device of the host where it needs it, as its root is still in sight.
    assert ("stack" in own) <= ("outside" in own)
    assert {"apply", "stack"} & set(own)


def test_the_cases_have_every_operation() -> None:
    used = {expected[0] for _, plan in CASES.values() for expected in plan}
    assert used == {operation.__name__ for operation in CLASSES}


def subject(launch: dict[str, Any]) -> recipe.Subject:
    return recipe.Subject(
        name="a",
        launch=launch,
        root=planned(launch),
        interfaces=(),
        networks={},
        cgroups=[],
        published=(),
        rates="",
        rlimits={},
        uid=0,
        gid=0,
        groups=(),
    )


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
def test_explain_prints_each_operation_once(
    changes: dict[str, Any], expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 'local host'\n")
    run = {"capabilities": 0, "env": {}, "argv": ["true"], "cgroups": [], "sysctls": {}}
    names = {"hostname": "a", "time_offset": None, "files": {"/etc/hosts": str(hosts)}}
    explained = subject({**LAUNCH, **run, **names, **changes})
    assert len(explained.root) == len(expected)
    sections = {each.function or each.title: each.commands for each in recipe.sections(explained)}
    outside = next(commands for title, commands in sections.items() if title.startswith("Root"))
    inside = sections["prepare_root"]
    for operation in explained.root:
        printed = operation.outside() + operation.command()
        assert printed, operation
    assert outside[1:] == [line for each in explained.root for line in each.outside()]
    lines = [line for each in explained.root for line in each.command()]
    start = inside.index("cd ../merged") + 1
    assert inside[start : start + len(lines)] == lines


SAFE_RO = f"ro,{SAFE}"


@pytest.mark.parametrize(
    ("shown", "outside", "lines"),
    [
        ([""], [], [f"mount -t cgroup2 -o {SAFE_RO} none ./sys/fs/cgroup"]),
        (
            ["cpu,cpuacct", ""],
            [
                'mkdir "$scratch/root/own/cgroup" "$scratch/root/own/cgroup/cpu,cpuacct" '
                '"$scratch/root/own/cgroup/unified"',
                'ln -s cpu,cpuacct "$scratch/root/own/cgroup/cpu"',
                'ln -s cpu,cpuacct "$scratch/root/own/cgroup/cpuacct"',
            ],
            [
                "mount --bind ../own/cgroup ./sys/fs/cgroup",
                f"mount -o remount,bind,{SAFE_RO} ./sys/fs/cgroup",
                f"mount -t cgroup -o {SAFE_RO},cpu,cpuacct none ./sys/fs/cgroup/cpu,cpuacct",
                f"mount -t cgroup2 -o {SAFE_RO} none ./sys/fs/cgroup/unified",
            ],
        ),
    ],
    ids=["version 2", "both"],
)
def test_cgroups_are_where_programs_look(
    shown: list[str], outside: list[str], lines: list[str]
) -> None:
    operation = cgroupfs.Cgroups(shown)
    assert (operation.outside(), operation.command()) == (outside, lines)


def test_few_file_systems_of_a_sandbox_are_its_own() -> None:
    """Each one costs the kernel 6 kB, and a bit in every memory cgroup of the host."""
    operations_of = planned({**LAUNCH, "masked": ["/proc/a", "/proc/b"], "shown": ["memory"]})
    made = [each.kind for each in operations_of if isinstance(each, operations.Filesystem)]
    assert sorted(made) == ["devpts", "mqueue", "proc", "sysfs", "tmpfs", "tmpfs"]
