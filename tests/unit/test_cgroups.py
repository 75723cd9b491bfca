# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Layouts, conversions and refusals; version 2 against a tree of plain files."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace

import pytest
from sandlot import cgroups, store
from sandlot.cgroups import knobs, layout, removal
from sandlot.cgroups.layout import Hierarchy
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.kernel import cpulist, files
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site
from sandlot.spec import Spec, stored

MIB = 1 << 20
FREE = stored.from_json({"name": "a", "pids_limit": -1})
HOST = knobs.Host(frozenset(range(4)), frozenset({0}))


def mountinfo(tmp_path, *mounts: tuple[str, str, str]) -> str:
    lines = [
        f"{30 + i} 25 0:{i} / {point} rw,nosuid shared:{i} - {kind} {kind} rw,{options}\n"
        for i, (point, kind, options) in enumerate(mounts)
    ]
    path = tmp_path / "mountinfo"
    path.write_text("20 1 8:1 / / rw - ext4 /dev/vda rw\n" + "".join(lines))
    return str(path)


def unified(directory, controllers: str) -> str:
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.controllers").write_text(controllers + "\n")
    return str(directory)


def test_version_1_with_controllers_mounted_together(tmp_path):
    layout = cgroups.detect(
        mountinfo(
            tmp_path,
            ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
            ("/sys/fs/cgroup/memory", "cgroup", "memory"),
            ("/sys/fs/cgroup/systemd", "cgroup", "xattr,name=systemd"),
            ("/other/memory", "cgroup", "memory"),
            ("/odd\\040place", "cgroup", "pids"),
        )
    )
    assert [hierarchy.directory for hierarchy in layout.hierarchies] == [
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/memory",
        "/odd place",
    ]
    assert layout.having("cpuacct") is layout.having("cpu")
    assert layout.having("cpuset") is None


def test_version_2(tmp_path):
    root = unified(tmp_path / "cgroup", "cpuset cpu io memory pids")
    layout = cgroups.detect(mountinfo(tmp_path, (root, "cgroup2", "nsdelegate")))
    (hierarchy,) = layout.hierarchies
    assert hierarchy.unified
    assert hierarchy.sandbox(Site(""), "web") == f"{root}/sandlot/web"


def test_hybrid(tmp_path):
    root = unified(tmp_path / "unified", "hugetlb")
    mounts = (("/c/memory", "cgroup", "memory"), (root, "cgroup2", ""), ("/gone", "cgroup2", ""))
    layout = cgroups.detect(mountinfo(tmp_path, *mounts))
    assert [hierarchy.unified for hierarchy in layout.hierarchies] == [False, True]
    assert not layout.having("memory").unified


def test_no_cgroups_at_all(tmp_path):
    assert cgroups.detect(mountinfo(tmp_path)).hierarchies == ()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", []),
        ("0", [0]),
        ("0-3,6", [0, 1, 2, 3, 6]),
        ("2,0-1\n", [0, 1, 2]),
        ("5,7-8", [5, 7, 8]),
    ],
)
def test_cpu_lists(text, numbers):
    assert cpulist.parse(text) == frozenset(numbers)
    assert cpulist.parse(cpulist.render(numbers)) == frozenset(numbers)


def test_cpu_lists_are_rendered_shortest():
    assert cpulist.render({6, 0, 1, 2, 3, 8, 9}) == "0-3,6,8-9"


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (1, 1),
        (2, 1),
        (10, 4),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262144, 10000),
        (1 << 30, 10000),
    ],
)
def test_weights(shares, weight):
    assert knobs.weight(shares) == weight


def wanted(table, limits: Spec) -> dict[str, str]:
    return {knob.file: knob.wanted(limits, HOST) for knob in table}


DEFAULTS_1 = {
    "cpuset.mems": "0",
    "cpuset.cpus": "0-3",
    "memory.memsw.limit_in_bytes": "unlimited",
    "memory.limit_in_bytes": "unlimited",
    "memory.kmem.tcp.limit_in_bytes": "unlimited",
    "memory.soft_limit_in_bytes": "unlimited",
    "cpu.cfs_period_us": "100000",
    "cpu.cfs_quota_us": "unlimited",
    "cpu.shares": "1024",
    "pids.max": "unlimited",
    "freezer.state": "THAWED",
}
LIMITED_1 = {
    "memory.limit_in_bytes": "67108864",
    "memory.kmem.tcp.limit_in_bytes": "67108864",
}
DEFAULTS_2 = {
    "cpuset.cpus": "",
    "memory.swap.max": "unlimited",
    "memory.max": "unlimited",
    "memory.low": "0",
    "cpu.max": "unlimited",
    "cpu.weight": "100",
    "pids.max": "unlimited",
    "cgroup.freeze": "0",
}


@pytest.mark.parametrize(
    ("limits", "version_1", "version_2"),
    [
        ({}, {}, {}),
        (
            {"memory": 64 * MIB},
            {**LIMITED_1, "memory.memsw.limit_in_bytes": "134217728"},
            {"memory.max": "67108864", "memory.swap.max": "67108864"},
        ),
        (
            {"memory": 64 * MIB, "memory_swap": 64 * MIB},
            {**LIMITED_1, "memory.memsw.limit_in_bytes": "67108864"},
            {"memory.max": "67108864", "memory.swap.max": "0"},
        ),
        (
            {"memory": 64 * MIB + 17, "memory_swap": -1},
            LIMITED_1,
            {"memory.max": "67108864"},
        ),
        ({"memory": 2**63 - 1}, {}, {}),
        (
            {"memory_reservation": 8 * MIB + 17},
            {"memory.soft_limit_in_bytes": "8388608"},
            {"memory.low": "8388608"},
        ),
        ({"cpus": 0.5}, {"cpu.cfs_quota_us": "50000"}, {"cpu.max": "50000 100000"}),
        ({"cpus": 3.0}, {"cpu.cfs_quota_us": "300000"}, {"cpu.max": "300000 100000"}),
        ({"cpu_shares": 512}, {"cpu.shares": "512"}, {"cpu.weight": "59"}),
        ({"cpu_shares": 2**20}, {"cpu.shares": "262144"}, {"cpu.weight": "10000"}),
        ({"cpuset_cpus": frozenset({1, 0, 3})}, {"cpuset.cpus": "0-1,3"}, {"cpuset.cpus": "0-1,3"}),
        ({"pids_limit": 9}, {"pids.max": "9"}, {"pids.max": "9"}),
    ],
)
def test_what_limits_are_in_files(limits, version_1, version_2):
    asked = replace(FREE, **limits)
    assert wanted(knobs.VERSION_1, asked) == {**DEFAULTS_1, **version_1}
    assert wanted(knobs.VERSION_2, asked) == {**DEFAULTS_2, **version_2}


def test_what_files_show_is_compared_in_one_form():
    one = {knob.file: knob for knob in knobs.VERSION_1}
    two = {knob.file: knob for knob in knobs.VERSION_2}
    assert one["memory.limit_in_bytes"].canonical("9223372036854771712") == "unlimited"
    assert one["cpu.cfs_quota_us"].canonical("-1") == "unlimited"
    assert one["cpu.cfs_quota_us"].spelled("unlimited") == "-1"
    assert two["cpu.max"].canonical("max 100000") == "unlimited"
    assert two["cpu.max"].canonical("50000 100000") == "50000 100000"
    assert two["cpu.max"].show("50000 100000") == "0.5"
    assert two["memory.max"].canonical("max") == "unlimited"
    assert two["memory.max"].canonical(None) is None


def state(
    *controllers: str, swap: bool = True, sockets: bool = True, version: int = 2
) -> cgroups.CgroupState:
    hierarchy = Hierarchy("/none", frozenset(controllers), unified=version == 2)
    return cgroups.CgroupState(cgroups.Layout((hierarchy,)), HOST, swap, sockets, {}, ())


@pytest.mark.parametrize(
    ("limits", "controllers", "error"),
    [
        ({"memory": MIB}, "cpu", "memory can't be enforced: the memory cgroup controller is miss"),
        ({"memory_reservation": MIB}, "cpu", "memory_reservation can't be enforced"),
        ({"cpus": 1.0}, "memory", "cpus can't be enforced: .*cgroup_enable=cpu.*leave cpus out"),
        ({"cpu_shares": 9}, "memory", "cpu_shares can't be enforced"),
        ({"cpuset_cpus": frozenset({0})}, "cpu", "cpuset_cpus can't be enforced"),
        ({"pids_limit": 5}, "cpu", "pids_limit can't be enforced: .*set pids_limit to -1"),
        ({"pids_limit": 5}, "", "pids_limit can't be enforced"),
    ],
)
def test_a_limit_without_its_controller_is_refused(limits, controllers, error):
    with pytest.raises(HostError, match=error):
        cgroups.check(replace(FREE, **limits), state(*controllers.split()))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("option", knobs.CONTROLLERS)
def test_a_limit_of_the_other_version_is_refused(monkeypatch, version, option):
    """Each version has a knob of the option, or refuses the option."""
    name = f"VERSION_{version}"
    others = tuple(knob for knob in getattr(knobs, name) if knob.option != option)
    asked = replace(FREE, **{option: frozenset({0}) if option == "cpuset_cpus" else 5})
    host = state(knobs.CONTROLLERS[option], version=version)
    monkeypatch.setattr(cgroups.state, name, others)
    cgroups.check(FREE, host)
    with pytest.raises(HostError, match=f"{option} can't be enforced: version {version} of cgr"):
        cgroups.check(asked, host)


def test_the_controllers_of_version_1_are_found_in_the_table_of_mounts():
    assert {knob.controller for knob in knobs.VERSION_1} <= layout._VERSION_1


def test_a_new_cgroup_has_no_limit():
    for knob in knobs.VERSION_2:
        assert knob.canonical(knob.fresh) == knob.wanted(FREE, HOST), knob.label


def test_swap_that_is_not_accounted():
    limits = replace(FREE, memory=64 * MIB)
    cgroups.check(limits, state("memory", swap=False))
    with pytest.raises(HostError, match="memory_swap can't be enforced"):
        cgroups.check(replace(limits, memory_swap=64 * MIB), state("memory", swap=False))


def test_sockets_that_are_not_accounted(tmp_path):
    """Version 1 of a kernel without that file: nothing is written, and no limit is accepted."""
    memory = tmp_path / "memory"
    memory.mkdir()
    layout = cgroups.Layout((Hierarchy(str(memory), frozenset({"memory"})),))
    host = cgroups.observe(Site(str(tmp_path)), [], layout)
    cgroups.check(FREE, host)
    assert knobs.SOCKETS_FILE not in {knob.file for _, knob, _ in cgroups.state.wanted(FREE, host)}
    with pytest.raises(HostError, match="memory can't be enforced: .*the memory of sockets"):
        cgroups.check(replace(FREE, memory=64 * MIB), host)
    (memory / knobs.SOCKETS_FILE).write_text("")
    cgroups.check(replace(FREE, memory=64 * MIB), cgroups.observe(Site(""), [], layout))


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (
            {"cpuset_cpus": frozenset({2, 3, 4, 5})},
            "names CPUs this host does not have: 4-5; use CPUs of 0-3",
        ),
        ({"cpus": 0.001}, "cpus: 0.001 is less than the kernel can enforce; use 0.01 or more"),
    ],
)
def test_values_this_host_can_not_have(limits, error):
    with pytest.raises(SpecError, match=error):
        cgroups.check(replace(FREE, **limits), state("cpu", "cpuset"))


def test_what_a_host_without_cgroups_accepts():
    bare = cgroups.CgroupState(cgroups.Layout(()), HOST, False, False, {}, ())
    cgroups.check(FREE, bare)
    assert cgroups.directories(Site("/x"), "a", bare) == []


class Tree:
    """Plain files in place of a version 2 hierarchy; the files a kernel makes are made here."""

    SANDBOX = {
        **{knob.file: knob.fresh for knob in knobs.VERSION_2},
        "memory.current": "0",
    }

    def __init__(self, tmp_path) -> None:
        self.root = tmp_path / "cgroup"
        self.paths = Site(str(tmp_path / "sandlot"))
        self.parent = self.root / self.paths.cgroup
        self.sandbox = self.parent / "a"
        self.fill(
            self.root,
            {
                "cgroup.controllers": "cpuset cpu io memory pids",
                "cgroup.subtree_control": "memory pids",
                "cpuset.cpus.effective": "0-3",
                "cpuset.mems.effective": "0",
            },
        )
        self.fill(self.parent, {"cgroup.subtree_control": "", **self.SANDBOX})
        self.fill(self.sandbox, self.SANDBOX)
        self.layout = cgroups.detect(mountinfo(tmp_path, (str(self.root), "cgroup2", "")))

    @staticmethod
    def fill(directory, files: dict[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text + "\n")

    def text(self, name: str) -> str:
        return (self.sandbox / name).read_text().strip()

    def plan(self, limits: Spec):
        seen = cgroups.observe(self.paths, ["a"], self.layout)
        return cgroups.operations(self.paths, "a", limits, seen)


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


def test_version_2_limits_are_written_and_withdrawn(tree):
    limits = replace(
        FREE,
        memory=64 * MIB,
        memory_swap=96 * MIB,
        cpus=0.5,
        cpu_shares=512,
        cpuset_cpus=frozenset({0, 1}),
        pids_limit=20,
    )
    operations = tree.plan(limits)
    assert descriptions(operations) == [
        "a: cgroup: cpuset_cpus any -> 0-1, memory_swap beyond memory unlimited -> 33554432, "
        "memory unlimited -> 67108864, cpus unlimited -> 0.5, cpu_shares as weight 100 -> 59, "
        "pids_limit unlimited -> 20"
    ]
    apply_all(operations)
    assert tree.text("cpu.max") == "50000 100000"
    assert tree.text("memory.swap.max") == str(32 * MIB)
    assert tree.plan(limits) == []
    apply_all(tree.plan(replace(FREE, pids_limit=20)))
    assert tree.text("memory.max") == "max"
    assert tree.text("cpuset.cpus") == ""
    assert tree.text("cpu.max") == "max"
    assert tree.text("pids.max") == "20"


def test_version_2_lowers_no_limit_below_what_is_used(tree):
    (tree.sandbox / "memory.current").write_text(f"{100 * MIB}\n")
    (tree.sandbox / "memory.reclaim").write_text("")
    with pytest.raises(SandlotError, match="memory of a can't be lowered to 67108864"):
        apply_all(tree.plan(replace(FREE, memory=64 * MIB)))
    assert tree.text("memory.reclaim") == str(36 * MIB)
    assert tree.text("memory.max") == "max"


def test_version_2_protects_the_sum_of_all_reservations(tree, monkeypatch):
    """The kernel protects no more memory of a cgroup than its parent has."""
    tree.fill(tree.parent / "b", {**tree.SANDBOX, "memory.low": str(8 * MIB)})
    apply_all(tree.plan(replace(FREE, memory_reservation=16 * MIB)))
    assert tree.text("memory.low") == str(16 * MIB)
    assert (tree.parent / "memory.low").read_text() == f"{24 * MIB}\n"
    apply_all(tree.plan(FREE))
    assert (tree.parent / "memory.low").read_text() == f"{8 * MIB}\n"
    monkeypatch.setattr(removal, "_remove_tree", lambda path: shutil.rmtree(path) is None)
    removal.remove(tree.paths, "b", tree.layout)
    assert (tree.parent / "memory.low").read_text() == "0\n"


def test_version_2_thaws(tree):
    (tree.sandbox / "cgroup.freeze").write_text("1\n")
    operations = tree.plan(FREE)
    assert descriptions(operations) == ["a: cgroup: freezer 1 -> 0"]
    apply_all(operations)
    assert tree.text("cgroup.freeze") == "0"


def test_version_2_without_swap_accounting(tree):
    for directory in (tree.parent, tree.sandbox):
        os.unlink(directory / "memory.swap.max")
    assert not cgroups.observe(tree.paths, ["a"], tree.layout).swap
    apply_all(tree.plan(replace(FREE, memory=64 * MIB)))
    assert tree.plan(replace(FREE, memory=64 * MIB)) == []
    with pytest.raises(HostError, match="memory_swap"):
        tree.plan(replace(FREE, memory=64 * MIB, memory_swap=64 * MIB))


def test_controllers_turned_on_at_the_root_are_recorded(tree):
    apply_all(tree.plan(replace(FREE, pids_limit=5)))
    record = store.read(f"{tree.paths.state}/cgroups.json")
    assert record["enabled"] == ["cpu", "cpuset"]
    assert record["boot_id"] == store.boot_id()
    assert (tree.root / "cgroup.subtree_control").read_text() == "+cpuset\n"
    assert (tree.parent / "cgroup.subtree_control").read_text() == "+pids\n"


@pytest.mark.parametrize("times", [1, 2, 100])
def test_controllers_that_systemd_takes_from_the_root_are_turned_on_again(
    tree, monkeypatch, times: int
):
    write, root, refusals = files.write_value, tree.root / "cgroup.subtree_control", []

    def refused(path: str, value: str) -> None:
        if path.startswith(str(tree.parent)) and value == "+cpuset" and len(refusals) < times:
            refusals.append(path)
            root.write_text("cpu memory pids\n")
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        write(path, value)

    monkeypatch.setattr(files, "write_value", refused)
    operations = tree.plan(replace(FREE, pids_limit=5))
    if times == 100:
        with pytest.raises(HostError, match="the cpuset controller can't be enabled"):
            apply_all(operations)
        return
    apply_all(operations)
    assert root.read_text() == "+cpuset\n"
    assert (tree.parent / "cgroup.subtree_control").read_text() == "+pids\n"


def dismantle(tree) -> None:
    for directory in (tree.sandbox, tree.parent):
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"cpuset.cpus": ""}, "-cpuset"),
        ({"cpuset.cpus": "0"}, "cpu cpuset memory pids"),
        ({"cgroup.subtree_control": "cpuset"}, "cpu cpuset memory pids"),
    ],
)
def test_they_are_turned_off_again_unless_the_host_relies_on_them(tree, files, left):
    record = {"boot_id": store.boot_id(), "enabled": ["cpuset"]}
    os.makedirs(tree.paths.state)
    store.write(f"{tree.paths.state}/cgroups.json", record)
    dismantle(tree)
    (tree.root / "cgroup.subtree_control").write_text("cpu cpuset memory pids\n")
    tree.fill(tree.root / "system.slice", files)
    seen = cgroups.observe(tree.paths, [], tree.layout)
    apply_all(cgroups.teardown_operations(tree.paths, seen))
    assert (tree.root / "cgroup.subtree_control").read_text() == f"{left}\n"
    assert cgroups.teardown_operations(tree.paths, seen) == []


def test_those_of_an_earlier_boot_are_left_alone(tree):
    os.makedirs(tree.paths.state)
    store.write(f"{tree.paths.state}/cgroups.json", {"boot_id": "old", "enabled": ["memory"]})
    dismantle(tree)
    apply_all(cgroups.teardown_operations(tree.paths, cgroups.observe(tree.paths, [], tree.layout)))
    assert (tree.root / "cgroup.subtree_control").read_text() == "memory pids\n"


def test_usage_of_version_2(tree):
    tree.fill(
        tree.sandbox,
        {
            "memory.current": "4096",
            "memory.events": "low 0\noom 2\noom_kill 1",
            "cpu.stat": "usage_usec 2500000\nuser_usec 1",
            "pids.current": "3",
        },
    )
    assert cgroups.usage(tree.paths, "a", tree.layout) == cgroups.Usage(4096, 2.5, 3, 1)
    nothing = cgroups.Usage(None, None, None, None)
    assert cgroups.usage(tree.paths, "b", tree.layout) == nothing
    assert cgroups.names(tree.paths, tree.layout) == {"a"}
