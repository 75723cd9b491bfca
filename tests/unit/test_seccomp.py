# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The compiled filter, run by an interpreter of classic BPF, against the policy."""

from __future__ import annotations

import errno
import struct

import pytest
from sandlot.errors import HostError
from sandlot.security import bpf, policy, seccomp
from sandlot.security.syscalls import ARCHITECTURES, FOREIGN

ALLOWED = 0x7FFF0000
FAILED = 0x00050000
EPERM, ENOSYS = FAILED | errno.EPERM, FAILED | errno.ENOSYS
I386, ARM = 0x40000003, 0x40000028
X32 = 0x40000000
GARBAGE = 0xDEADBEEF << 32

JUMPS = {
    bpf.EQUAL: lambda word, constant: word == constant,
    bpf.AT_LEAST: lambda word, constant: word >= constant,
    bpf.ANY_BIT: lambda word, constant: bool(word & constant),
}


def interpret(program: list, data: bytes) -> int:
    """Run a filter as the kernel does; every instruction outside the small set we use raises."""
    word, position = 0, 0
    while True:
        code, yes, no, constant = program[position]
        position += 1
        if code == bpf.LOAD:
            assert constant % 4 == 0
            (word,) = struct.unpack_from("=I", data, constant)
        elif code == bpf.AND:
            word &= constant
        elif code == bpf.JUMP:
            position += constant
        elif code == bpf.RETURN:
            return constant
        else:
            position += yes if JUMPS[code](word, constant) else no


class Filter:
    def __init__(self, machine: str, *granted: str, foreign: tuple[str, ...] = ()) -> None:
        self.architecture = ARCHITECTURES[machine]
        packed = seccomp.program(machine=machine, capabilities=granted, architectures=foreign)
        self.program = list(struct.iter_unpack("=HBBI", packed))

    def number(self, number: int, *arguments: int, audit: int | None = None) -> int:
        audit = self.architecture.audit if audit is None else audit
        padded = [*arguments, *[0] * (6 - len(arguments))]
        data = struct.pack("=IIQ6Q", number, audit, 0x7F0000001234, *padded)
        return interpret(self.program, data)

    def call(self, name: str, *arguments: int) -> int:
        return self.number(self.architecture.numbers[name], *arguments)


MACHINES = sorted(ARCHITECTURES)
FILTERS = {machine: Filter(machine) for machine in MACHINES}


@pytest.fixture(params=MACHINES)
def default(request) -> Filter:
    return FILTERS[request.param]


def expected(name: str | None) -> int:
    if name is None:
        return ENOSYS
    return ALLOWED if name in policy.ALLOWED else EPERM


def test_every_name_of_the_tables_is_decided_exactly_once():
    parts = [policy.ALLOWED, policy.INSPECTED, policy.DENIED, set().union(*policy.GRANTED.values())]
    union = set().union(*parts)
    assert sum(map(len, parts)) == len(union)
    assert union == set().union(*(a.numbers for a in ARCHITECTURES.values()))


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("read", 0, 63),
        ("clone", 56, 220),
        ("unshare", 272, 97),
        ("mount", 165, 40),
        ("capset", 126, 91),
        ("tkill", 200, 130),
        ("utimensat", 280, 88),
        ("recvmmsg", 299, 243),
        ("wait4", 61, 260),
        ("kexec_file_load", 320, 294),
        ("rseq", 334, 293),
        ("pidfd_send_signal", 424, 424),
        ("clone3", 435, 435),
        ("set_mempolicy_home_node", 450, 450),
        ("open_tree_attr", 467, 467),
        ("file_setattr", 469, 469),
    ],
)
def test_known_numbers(name, x86_64, aarch64):
    assert ARCHITECTURES["x86_64"].numbers[name] == x86_64
    assert ARCHITECTURES["aarch64"].numbers[name] == aarch64


def test_every_number_of_the_native_entry(default):
    names = {number: name for name, number in default.architecture.numbers.items()}
    for number in range(600):
        name = names.get(number)
        if name not in policy.INSPECTED:
            assert default.number(number) == expected(name), (number, name)


def test_every_number_with_the_x32_bit():
    for number in range(600):
        assert FILTERS["x86_64"].number(number | X32) == EPERM
        assert FILTERS["aarch64"].number(number | X32) == ENOSYS


@pytest.mark.parametrize("audit", [I386, ARM, 0, 0xFFFFFFFF])
def test_every_number_of_a_foreign_entry(default, audit):
    for number in range(600):
        assert default.number(number, audit=audit) == EPERM


def test_each_machine_refuses_the_other():
    x86, arm = FILTERS["x86_64"], FILTERS["aarch64"]
    assert x86.number(0, audit=arm.architecture.audit) == EPERM
    assert arm.number(63, audit=x86.architecture.audit) == EPERM


@pytest.mark.parametrize("number", [470, 512, 547, 2000, X32 - 1])
def test_unknown_numbers_do_not_exist(default, number):
    assert default.number(number) == ENOSYS


def test_number_minus_one():
    assert FILTERS["x86_64"].number(0xFFFFFFFF) == EPERM
    assert FILTERS["aarch64"].number(0xFFFFFFFF) == ENOSYS


def test_clone_flags(default):
    namespaces = {1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)}
    for bit in range(32):
        outcome = EPERM if 1 << bit in namespaces else ALLOWED
        for extra in (0, 17, GARBAGE):
            assert default.call("clone", 1 << bit | extra) == outcome, hex(1 << bit)
    assert default.call("clone", GARBAGE | 17) == ALLOWED
    assert default.call("clone3", 0) == ENOSYS


@pytest.mark.parametrize("garbage", [0, GARBAGE])
def test_terminal_injection(default, garbage):
    assert default.call("ioctl", 0, garbage | 0x5412) == EPERM
    assert default.call("ioctl", 0, garbage | 0x541C) == EPERM
    assert default.call("ioctl", 0, garbage | 0x5401) == ALLOWED
    assert default.call("ioctl", 0x5412, garbage | 0x5413) == ALLOWED


@pytest.mark.parametrize("garbage", [0, GARBAGE])
def test_socket_families(default, garbage):
    for family in range(64):
        outcome = ALLOWED if family in (1, 2, 10, 16) else EPERM
        assert default.call("socket", garbage | family, 1, 0) == outcome, family
        outcome = ALLOWED if family == 1 else EPERM
        assert default.call("socketpair", garbage | family, 1, 0) == outcome, family


def test_the_packet_socket_in_disguise(default):
    for type_ in (10, 10 | 0o2000000, GARBAGE | 10 | 0o4000):
        assert default.call("socket", 2, type_, 0) == EPERM
    assert default.call("socket", 2, 1 | 0o2000000, 0) == ALLOWED


def test_netlink_protocols(default):
    for protocol in range(1, 32):
        assert default.call("socket", 16, 3, protocol) == FAILED | errno.EPROTONOSUPPORT
    assert default.call("socket", 16, 3, GARBAGE) == ALLOWED


@pytest.mark.parametrize("garbage", [0, GARBAGE])
def test_personalities(default, garbage):
    for persona in (0, 0xFFFFFFFF, 8, 0x20000, 0x20008):
        assert default.call("personality", garbage | persona) == ALLOWED
    for persona in (0x40000, 0x100000, 0x0400000, 0x20009, 1, 0x80000000):
        assert default.call("personality", garbage | persona) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("capability", sorted(policy.GRANTED))
def test_a_capability_opens_its_calls_and_no_other(machine, capability):
    granted, default = Filter(machine, capability), FILTERS[machine]
    for name, number in granted.architecture.numbers.items():
        opened = name in policy.GRANTED[capability]
        if name not in policy.INSPECTED:
            assert granted.number(number) == (ALLOWED if opened else default.number(number)), name


@pytest.mark.parametrize("machine", MACHINES)
def test_capabilities_that_open_arguments(machine):
    admin, raw, net = (Filter(machine, name) for name in ("SYS_ADMIN", "NET_RAW", "NET_ADMIN"))
    assert admin.call("clone", 0x10000000) == ALLOWED
    assert admin.call("clone3") == ALLOWED
    assert admin.call("ioctl", 0, 0x5412) == EPERM
    assert admin.call("socket", 17, 3, 0) == EPERM
    assert raw.call("socket", 17, 3, 0) == ALLOWED
    assert raw.call("socket", 2, 10, 0) == ALLOWED
    assert raw.call("socket", 16, 3, 12) == FAILED | errno.EPROTONOSUPPORT
    assert net.call("socket", 16, 3, 12) == ALLOWED
    assert net.call("socket", 17, 3, 0) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_length_and_shape(machine):
    for granted in ((), tuple(policy.GRANTED)):
        packed = seccomp.program(machine=machine, capabilities=granted)
        program = list(struct.iter_unpack("=HBBI", packed))
        assert len(program) < 700
        assert program[-1][0] == bpf.RETURN


def test_profiles_and_machines():
    assert seccomp.program(profile="unconfined", machine="x86_64") is None
    with pytest.raises(HostError, match="riscv64"):
        seccomp.program(machine="riscv64")


def test_unknown_words_open_nothing():
    """The option table refuses them; were one to come through, the filter is the strictest."""
    strict = seccomp.program(machine="x86_64")
    assert seccomp.program(profile="none", machine="x86_64") == strict
    assert seccomp.program(capabilities=["ROOT"], machine="x86_64") == strict


def test_jumps_longer_than_a_byte():
    chain = bpf.search([(4 * i, bpf.fail(1 + i)) for i in range(1000)])
    program = bpf.load(bpf.NUMBER_OFFSET, chain)
    for number in (0, 3, 4, 1999, 2000, 3996, 5000):
        data = struct.pack("=IIQ6Q", number, 0, 0, 0, 0, 0, 0, 0, 0)
        assert interpret(program, data) == FAILED | (1 + min(number // 4, 999))
    with pytest.raises(ValueError, match="4096"):
        bpf.pack(program * 3)


# -- 32-bit programs on x86_64

WITH_I386 = Filter("x86_64", foreign=("x86",))


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (1, ALLOWED),  # exit
        (4, ALLOWED),  # write
        (21, EPERM),  # mount
        (52, EPERM),  # umount2
        (102, ALLOWED),  # socketcall
        (117, ALLOWED),  # ipc
        (113, EPERM),  # vm86old
        (123, EPERM),  # modify_ldt
        (192, ALLOWED),  # mmap2
        (195, ALLOWED),  # stat64
        (213, ALLOWED),  # setuid32
        (222, ENOSYS),  # a gap
        (264, EPERM),  # clock_settime
        (346, EPERM),  # setns
        (403, ALLOWED),  # clock_gettime64
        (404, EPERM),  # clock_settime64
        (425, EPERM),  # io_uring_setup
        (435, ENOSYS),  # clone3
        (470, ENOSYS),
        (0x40000000, ENOSYS),
    ],
)
def test_an_open_foreign_entry_has_the_policy_of_the_native_one(number: int, outcome: int) -> None:
    assert WITH_I386.number(number, audit=I386) == outcome
    assert FILTERS["x86_64"].number(number, audit=I386) == EPERM
    assert WITH_I386.number(number, audit=ARM) == EPERM


def test_arguments_of_a_foreign_entry() -> None:
    clone, ioctl, personality, socket = 120, 54, 136, 359
    assert WITH_I386.number(clone, 0x10000000, audit=I386) == EPERM
    assert WITH_I386.number(clone, 17, audit=I386) == ALLOWED
    assert WITH_I386.number(ioctl, 0, 0x5412, audit=I386) == EPERM
    assert WITH_I386.number(personality, 0x40000, audit=I386) == EPERM
    assert WITH_I386.number(socket, 40, 1, 0, audit=I386) == EPERM


def test_an_open_foreign_entry_leaves_the_native_one_alone() -> None:
    for number in range(600):
        native = FILTERS["x86_64"].number(number, 1, 0x5401, 0)
        assert WITH_I386.number(number, 1, 0x5401, 0) == native
        assert WITH_I386.number(number | X32) == EPERM
    granted = Filter("x86_64", "SYS_TIME", foreign=("x86",))
    assert granted.number(404, audit=I386) == ALLOWED


def test_every_foreign_call_is_decided() -> None:
    decided = policy.ALLOWED | policy.INSPECTED | policy.DENIED
    decided = decided.union(*policy.GRANTED.values())
    for entries in FOREIGN.values():
        for entry in entries.values():
            assert set(entry.names.values()) <= decided


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_calls_that_sync_succeed_and_all_others_are_made(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    program = list(struct.iter_unpack("=HBBI", seccomp.unsynced(machine)))
    skipped = {
        name
        for name, number in architecture.numbers.items()
        if interpret(program, struct.pack("=IIQ6Q", number, architecture.audit, *[0] * 7))
        != ALLOWED
    }
    assert skipped == {"fdatasync", "fsync", "sync", "sync_file_range", "syncfs"}
    fsync = architecture.numbers["fsync"]
    for audit, outcome in ((architecture.audit, FAILED), (I386, ALLOWED)):
        assert interpret(program, struct.pack("=IIQ6Q", fsync, audit, *[0] * 7)) == outcome


def test_unknown_machines_sync() -> None:
    (instruction,) = struct.iter_unpack("=HBBI", seccomp.unsynced("vax"))
    assert instruction[3] == ALLOWED
