# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Cgroups on the hierarchies this machine has: limits that hold, and removal that ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sandlot import cgroups
from sandlot.cgroups import knobs
from sandlot.errors import ForeignError, HostError, SandlotError
from sandlot.kernel import namespaces
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site
from sandlot.spec import Spec, stored

MIB = 1 << 20
FREE = stored.from_json({"name": "a", "pids_limit": -1})
LAYOUT = cgroups.detect()
UNIFIED = tuple(h for h in LAYOUT.hierarchies if h.unified)
VERSION_1 = tuple(h for h in LAYOUT.hierarchies if not h.unified)
CPUS = sorted(os.sched_getaffinity(0))


class Fleet:
    """Sandboxes' cgroups below a parent of this test's own, and processes in them."""

    def __init__(self, root: str, layout: cgroups.Layout = LAYOUT) -> None:
        self.paths = Site(root)
        self.layout = layout
        self.processes: list[subprocess.Popen] = []

    def observe(self, *names: str) -> cgroups.CgroupState:
        return cgroups.observe(self.paths, names, self.layout)

    def plan(self, name: str, limits: Spec):
        return cgroups.operations(self.paths, name, limits, self.observe(name))

    def limit(self, name: str, limits: Spec) -> list[str]:
        operations = self.plan(name, limits)
        apply_all(operations)
        assert self.plan(name, limits) == []
        return descriptions(operations)

    def directories(self, name: str) -> list[str]:
        return cgroups.directories(self.paths, name, self.observe(name))

    def usage(self, name: str) -> cgroups.Usage:
        return cgroups.usage(self.paths, name, self.layout)

    def spawn(self, name: str, *command: str, foreign: bool = False) -> subprocess.Popen:
        """In a user namespace, as all of a sandbox is; or a process of the host."""
        directories = self.directories(name)

        def join() -> None:
            for directory in directories:
                write(f"{directory}/cgroup.procs", "0")
            if not foreign:
                namespaces.unshare(namespaces.CLONE_NEWUSER)

        process = subprocess.Popen(
            command, preexec_fn=join, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def python(self, name: str, code: str) -> subprocess.Popen:
        return self.spawn(name, sys.executable, "-c", code)

    def remove(self, name: str) -> None:
        apply_all(cgroups.remove_operations(self.paths, name, self.observe(name)))

    def close(self) -> None:
        for name in cgroups.names(self.paths, self.layout):
            self.remove(name)
        for process in self.processes:
            process.kill()
            with process:
                process.wait()
        apply_all(cgroups.teardown_operations(self.paths, self.observe()))


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(str(tmp_path))
    with contextlib.closing(fleet):
        yield fleet
    for hierarchy in LAYOUT.hierarchies:
        assert not os.path.exists(hierarchy.parent(fleet.paths))


def write(path: str, text: str) -> None:
    with open(path, "w") as handle:
        handle.write(text)


def is_dead(process: subprocess.Popen) -> bool:
    return process.wait(10) == -signal.SIGKILL


def test_create_and_join_every_hierarchy(fleet):
    limits = replace(FREE, memory=64 * MIB, pids_limit=50)
    assert fleet.limit("a", limits) == ["a: cgroup: create"]
    process = fleet.spawn("a", "cat")
    lines = open(f"/proc/{process.pid}/cgroup").read().splitlines()
    placed = [line for line in lines if line.endswith(f":/{fleet.paths.cgroup}/a")]
    assert len(placed) == len(LAYOUT.hierarchies)
    usage = fleet.usage("a")
    assert usage.pids == 1
    assert usage.oom_kills == 0
    assert usage.memory is not None and usage.cpu_seconds is not None


SETTINGS = [
    ("memory", 64 * MIB, 128 * MIB, "memory {} -> 67108864"),
    ("memory", 128 * MIB, 64 * MIB, "memory {} -> 134217728"),
    ("memory_reservation", 8 * MIB, 16 * MIB, "memory_reservation {} -> 8388608"),
    ("cpus", 0.5, 1.5, "cpus {} -> 0.5"),
    ("cpu_shares", 512, 2048, None),
    ("cpuset_cpus", frozenset(CPUS[:1]), frozenset(CPUS[-1:]), f"cpuset_cpus {{}} -> {CPUS[0]}"),
    ("pids_limit", 50, 100, "pids_limit {} -> 50"),
]


@pytest.mark.parametrize(("option", "first", "second", "line"), SETTINGS)
def test_set_changed_and_removed_are_noticed(fleet, option, first, second, line):
    fleet.limit("a", FREE)
    untouched = fleet.observe("a").sandboxes["a"].values
    (described,) = fleet.limit("a", replace(FREE, **{option: first}))
    assert line is None or line.split("{}")[1] in described
    assert described.startswith("a: cgroup: ")
    values = fleet.observe("a").sandboxes["a"].values
    assert values != untouched
    if first != second:
        assert len(fleet.limit("a", replace(FREE, **{option: second}))) == 1
        assert fleet.observe("a").sandboxes["a"].values != values
    assert len(fleet.limit("a", FREE)) == 1
    assert fleet.observe("a").sandboxes["a"].values == untouched


def test_swap_follows_memory_up_and_down(fleet):
    for memory, swap in ((64, None), (128, 128), (32, 256), (256, -1), (16, 16), (None, None)):
        limits = replace(
            FREE,
            memory=None if memory is None else memory * MIB,
            memory_swap=swap * MIB if swap and swap > 0 else swap,
        )
        fleet.limit("a", limits)


def test_a_change_made_by_hand_is_noticed(fleet):
    limits = replace(FREE, pids_limit=50)
    fleet.limit("a", limits)
    pids = LAYOUT.having("pids").sandbox(fleet.paths, "a")
    write(f"{pids}/pids.max", "70")
    assert fleet.limit("a", limits) == ["a: cgroup: pids_limit 70 -> 50"]


@pytest.mark.parametrize("made", [0, 1, 5])
def test_a_creation_that_was_killed_is_completed(fleet, made):
    for hierarchy in LAYOUT.hierarchies[:made]:
        os.makedirs(hierarchy.sandbox(fleet.paths, "a"))
    fleet.limit("a", replace(FREE, memory=64 * MIB, pids_limit=10))
    assert fleet.spawn("a", "cat").poll() is None


FORK_UNTIL_REFUSED = """
import os, sys
count = 0
reader, writer = os.pipe()
try:
    while count < 200:
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        count += 1
except BlockingIOError:
    print("refused", count, flush=True)
sys.stdin.read()
"""


def test_a_fork_bomb_meets_the_pids_limit(fleet):
    fleet.limit("a", replace(FREE, pids_limit=20))
    assert fleet.python("a", FORK_UNTIL_REFUSED).stdout.readline() == "refused 19\n"
    assert fleet.usage("a").pids == 20
    fleet.limit("free", FREE)
    free = fleet.python("free", FORK_UNTIL_REFUSED)
    free.stdin.close()
    assert free.stdout.read() == ""


def test_memory_above_the_limit_is_killed_and_counted(fleet):
    fleet.limit("a", replace(FREE, memory=32 * MIB, memory_swap=32 * MIB))
    assert is_dead(fleet.python("a", f"bytearray({200 * MIB})"))
    assert fleet.usage("a").oom_kills >= 1
    fleet.limit("a", FREE)
    assert fleet.python("a", f"bytearray({200 * MIB})").wait(30) == 0


# Connections and datagrams that nobody reads; the senders stop when no buffer takes more.
FILL_SOCKETS = """
import contextlib, socket, sys
kept, sent = [], 0
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(100)
for _ in range(60):
    near = socket.create_connection(listener.getsockname())
    kept += [near, listener.accept()[0]]
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += near.send(bytes(1 << 16))
print(sent >> 20, flush=True)
sys.stdin.read()
"""


def fill_sockets(fleet: Fleet, name: str) -> int:
    """The MiB of data that unread connections hold; 0 when the sender is killed (version 2)."""
    process = fleet.python(name, FILL_SOCKETS)
    held = int(process.stdout.readline() or 0)
    process.stdin.close()
    process.wait()
    return held


def test_unread_sockets_meet_the_memory_limit(fleet):
    fleet.limit("a", replace(FREE, memory=64 * MIB, memory_swap=64 * MIB))
    assert fill_sockets(fleet, "a") < 80
    fleet.limit("a", FREE)
    assert fill_sockets(fleet, "a") > 160


def test_a_limit_of_sockets_made_by_hand_is_noticed(fleet):
    limits = replace(FREE, memory=64 * MIB)
    fleet.limit("a", limits)
    file = f"{LAYOUT.having('memory').sandbox(fleet.paths, 'a')}/{knobs.SOCKETS_FILE}"
    if os.path.exists(file):  # version 2 has one limit for all memory
        write(file, "-1")
        (line,) = fleet.limit("a", limits)
        assert line == f"a: cgroup: memory of sockets unlimited -> {64 * MIB}"


BURN = """
import time
end = time.monotonic() + 1.2
while time.monotonic() < end:
    pass
"""


def put_first(fleet):
    """Other programs of a busy machine take no share that counts."""
    for hierarchy in LAYOUT.hierarchies:
        for name, most in (("cpu.shares", "262144"), ("cpu.weight", "10000")):
            path = Path(hierarchy.parent(fleet.paths), name)
            if path.exists():
                path.write_text(most)


def test_a_cpu_quota_holds(fleet):
    fleet.limit("slow", replace(FREE, cpus=0.2))
    fleet.limit("free", FREE)
    put_first(fleet)
    for name in ("slow", "free"):
        assert fleet.python(name, BURN).wait(30) == 0
    assert 0.05 < fleet.usage("slow").cpu_seconds < 0.6
    assert fleet.usage("free").cpu_seconds > 1.3 * fleet.usage("slow").cpu_seconds


def test_a_cpu_set_holds_and_moves_a_running_process(fleet):
    process = None
    for cpu in (CPUS[0], CPUS[-1]):
        fleet.limit("a", replace(FREE, cpuset_cpus=frozenset({cpu})))
        process = process or fleet.spawn("a", "cat")
        assert os.sched_getaffinity(process.pid) == {cpu}
    fleet.limit("a", FREE)
    assert os.sched_getaffinity(process.pid) == set(CPUS)


HOLD = f"""
import sys
block = bytearray(b"x") * {64 * MIB}
print("held", flush=True)
sys.stdin.read()
"""


def test_memory_below_what_is_used_is_refused(fleet):
    wide = replace(FREE, memory=128 * MIB, memory_swap=128 * MIB)
    fleet.limit("a", wide)
    process = fleet.python("a", HOLD)
    assert process.stdout.readline() == "held\n"
    narrow = replace(FREE, memory=16 * MIB, memory_swap=16 * MIB)
    with pytest.raises(SandlotError, match="of a can't be lowered to 16777216: [0-9]+ bytes"):
        apply_all(fleet.plan("a", narrow))
    assert process.poll() is None
    assert fleet.usage("a").oom_kills == 0
    fleet.limit("a", wide)


def without_unified() -> cgroups.Layout:
    return cgroups.Layout(VERSION_1)


@pytest.mark.parametrize("layout", [LAYOUT, without_unified()], ids=["all", "version-1"])
class TestRemoval:
    @pytest.fixture
    def fleet(self, tmp_path, layout):
        with contextlib.closing(Fleet(str(tmp_path), layout)) as fleet:
            yield fleet

    def test_of_an_empty_one(self, fleet):
        fleet.limit("a", FREE)
        fleet.remove("a")
        assert fleet.observe("a").sandboxes["a"].existing == ()
        assert cgroups.remove_operations(fleet.paths, "a", fleet.observe("a")) == []

    def test_kills_what_lives_in_it_and_nothing_else(self, fleet):
        fleet.limit("a", FREE)
        fleet.limit("ab", FREE)
        inside, neighbour = fleet.spawn("a", "cat"), fleet.spawn("ab", "cat")
        fleet.remove("a")
        assert is_dead(inside)
        assert neighbour.poll() is None

    def test_of_a_running_fork_bomb(self, fleet):
        fleet.limit("a", replace(FREE, pids_limit=60))
        bomb = fleet.spawn("a", "sh", "-c", "f() { echo; f | f & }; f & exec cat")
        assert bomb.stdout.readline() == "\n"
        fleet.remove("a")
        assert is_dead(bomb)

    def test_of_a_frozen_one(self, fleet):
        fleet.limit("a", FREE)
        inside = fleet.spawn("a", "cat")
        freeze(fleet, "a")
        fleet.remove("a")
        assert is_dead(inside)

    def test_a_process_of_the_host_is_named_and_lives(self, fleet):
        fleet.limit("a", FREE)
        inside, shell = fleet.spawn("a", "cat"), fleet.spawn("a", "cat", foreign=True)
        with pytest.raises(
            ForeignError, match=rf"of no sandbox: process {shell.pid} \(cat\);.*mov"
        ):
            fleet.remove("a")
        assert shell.poll() is None and inside.poll() is None
        shell.kill()
        shell.wait()
        fleet.remove("a")
        assert is_dead(inside)

    def test_of_cgroups_made_inside(self, fleet):
        fleet.limit("a", FREE)
        inside = fleet.spawn("a", "cat")
        pids = fleet.layout.having("pids").sandbox(fleet.paths, "a")
        os.makedirs(f"{pids}/x/y")
        write(f"{pids}/x/y/cgroup.procs", str(inside.pid))
        fleet.remove("a")
        assert is_dead(inside)


def freeze(fleet: Fleet, name: str) -> None:
    freezer = LAYOUT.having("freezer")
    if freezer is None:
        write(f"{UNIFIED[0].sandbox(fleet.paths, name)}/cgroup.freeze", "1")
        return
    state = f"{freezer.sandbox(fleet.paths, name)}/freezer.state"
    write(state, "FROZEN")
    while open(state).read() != "FROZEN\n":
        os.sched_yield()


def test_a_frozen_sandbox_is_thawed_by_the_next_run(fleet):
    fleet.limit("a", FREE)
    process = fleet.spawn("a", "cat")
    freeze(fleet, "a")
    (described,) = fleet.limit("a", FREE)
    assert described.startswith("a: cgroup: freezer ")
    process.stdin.write("x\n")
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 10)[0]


def test_teardown_spares_what_is_not_a_removed_sandbox(fleet):
    fleet.limit("a", FREE)
    with pytest.raises(ForeignError, match="still contains a"):
        apply_all(cgroups.teardown_operations(fleet.paths, fleet.observe()))
    fleet.remove("a")
    operations = cgroups.teardown_operations(fleet.paths, fleet.observe())
    assert descriptions(operations) == [f"cgroups: remove {fleet.paths.cgroup} from each hierarchy"]
    apply_all(operations)
    apply_all(operations)
    assert cgroups.teardown_operations(fleet.paths, fleet.observe()) == []


def test_names_finds_leftovers(fleet):
    fleet.limit("a", FREE)
    os.mkdir(LAYOUT.having("pids").sandbox(fleet.paths, "left"))
    assert cgroups.names(fleet.paths) == {"a", "left"}


@pytest.mark.skipif(not UNIFIED, reason="no unified hierarchy is mounted")
class TestUnified:
    """The real version 2 hierarchy, which has none of our controllers beside version 1."""

    @pytest.fixture
    def fleet(self, tmp_path):
        with contextlib.closing(Fleet(str(tmp_path), cgroups.Layout(UNIFIED))) as fleet:
            yield fleet

    def test_join_freeze_kill_and_remove(self, fleet):
        fleet.limit("a", FREE)
        inside = fleet.spawn("a", "cat")
        directory = UNIFIED[0].sandbox(fleet.paths, "a")
        assert open(f"{directory}/cgroup.procs").read() == f"{inside.pid}\n"
        write(f"{directory}/cgroup.freeze", "1")
        assert fleet.limit("a", FREE) == ["a: cgroup: freezer 1 -> 0"]
        write(f"{directory}/cgroup.freeze", "1")
        os.mkdir(f"{directory}/inner")
        fleet.remove("a")
        assert is_dead(inside)

    @pytest.mark.skipif(LAYOUT.having("memory") in UNIFIED, reason="it has the controllers")
    def test_limits_without_their_controller_are_refused(self, fleet):
        for option, value in (("memory", 64 * MIB), ("cpus", 1.0), ("pids_limit", 10)):
            with pytest.raises(HostError, match=f"{option} can't be enforced"):
                fleet.plan("a", replace(FREE, **{option: value}))
        assert not os.path.exists(UNIFIED[0].parent(fleet.paths))


def test_the_kernel_shows_what_the_knobs_want(fleet):
    """Also guards against two names for one file, or a value the kernel rounds."""
    limits = replace(
        FREE,
        memory=64 * MIB + 5,
        memory_reservation=8 * MIB + 5,
        memory_swap=96 * MIB + 5,
        cpus=0.333,
        cpu_shares=3,
        cpuset_cpus=frozenset(CPUS[:1]),
        pids_limit=77,
    )
    fleet.limit("a", limits)
    values = fleet.observe("a").sandboxes["a"].values
    assert values["pids.max"] == "77"
    assert knobs.memory(limits) == 64 * MIB
    if "cpu.cfs_quota_us" in values:
        assert values["cpu.cfs_quota_us"] == "33300"
        assert values["memory.memsw.limit_in_bytes"] == str(96 * MIB)


def test_a_value_the_kernel_refuses_is_explained(fleet):
    fleet.limit("a", FREE)
    with pytest.raises(HostError, match="pids_limit can't be set to"):
        apply_all(fleet.plan("a", replace(FREE, pids_limit=2**40)))
