# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tables of system calls: compiled by one process, followed by another that checks them first."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sandlot import wire
from sandlot.build import builder
from sandlot.errors import LaunchError
from sandlot.kernel import call_table, calls, fork
from sandlot.security.syscalls import ARCHITECTURES


@pytest.fixture(scope="module")
def buffer() -> calls.Buffer:
    return calls.Buffer()


@pytest.fixture
def table(buffer: calls.Buffer) -> call_table.Table:
    return call_table.Table("a step", buffer.address, last=True)


def follow(buffer: calls.Buffer, *messages: bytes, fds: Sequence[int] = ()) -> int:
    """Follow tables; each comes with these descriptors."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        for message in messages:
            wire.transmit(ours, message, fds)
        return buffer.follow(theirs.fileno())
    finally:
        ours.close()
        theirs.close()


def in_child(work: Callable[[], object]) -> str:
    report, status = fork.call(lambda _report: str(work()).encode())
    assert status == 0
    return report.decode()


def next_descriptor() -> int:
    """The number that the next descriptor gets."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def first_received() -> int:
    """The number that ``follow``'s next descriptor gets, beside its two sockets."""
    held = [os.dup(0), os.dup(0)]
    first = next_descriptor()
    for fd in held:
        os.close(fd)
    return first


def test_numbers_are_those_of_the_architectures() -> None:
    for column, machine in enumerate(("x86_64", "aarch64")):
        numbers = ARCHITECTURES[machine].numbers
        for name, pair in call_table.PAIRS.items():
            assert pair[column] == numbers[name], name


def test_tables_are_followed_in_order(
    buffer: calls.Buffer, table: call_table.Table, tmp_path: Path
) -> None:
    os.mkdir(tmp_path / "sub")
    first = call_table.Table("a step before", buffer.address)
    first.add("chdir", os.fsencode(tmp_path) + b"\0")
    first.add("chdir", b"sub\0")
    table.add("umask", 0o027)

    def work() -> str:
        number = follow(buffer, first.encoded(0, 0), table.encoded(0, 0))
        return f"{number} {os.getcwd()} {os.umask(0):o}"

    assert in_child(work) == f"-1 {os.path.realpath(tmp_path)}/sub 27"


def test_a_call_that_fails_is_named_and_is_the_last(
    buffer: calls.Buffer, table: call_table.Table
) -> None:
    table.add("umask", 0o027)
    table.add("chdir", b"/missing\0")
    table.add("umask", 0o022)

    def work() -> str:
        number = follow(buffer, table.encoded(0, 0))
        return f"{number} {calls.failed()} {os.umask(0):o}"

    assert in_child(work) == f"1 {errno.ENOENT} 27"
    assert table.failure(1, errno.ENOENT) == "a step: chdir: No such file or directory"


def test_one_errno_may_be_no_failure(buffer: calls.Buffer, table: call_table.Table) -> None:
    table.add("chdir", b"/missing\0", tolerated=errno.ENOENT)
    assert follow(buffer, table.encoded(0, 0)) == -1


def test_parent_and_child_of_a_fork_have_calls_of_their_own(buffer: calls.Buffer) -> None:
    parent, child = os.pipe(), os.pipe()
    table = call_table.Table("a step", buffer.address)
    table.add("umask", 0o022)
    table.fork()
    table.add("write", parent[1], table.pid_at, 4)
    table.add("wait4", -1, 0, 0)
    table.add("exit_group", 0)
    table.child()
    table.add("write", child[1], b"child", 5)
    table.add("exit_group", 3)

    in_parent = fork.call(lambda _report: bytes(follow(buffer, table.encoded(0, 0))))
    assert in_parent == (b"", 0)
    assert struct.unpack("i", os.read(parent[0], 8))[0] > 0
    assert os.read(child[0], 8) == b"child"
    for fd in (*parent, *child):
        os.close(fd)


def test_a_fork_that_fails_gives_its_parent_the_errno(buffer: calls.Buffer) -> None:
    reader, writer = os.pipe()
    table = call_table.Table("a step", buffer.address)
    table.fork()
    table.add("write", writer, table.pid_at, 4)
    table.add("exit_group", 0)
    table.child()
    table.add("exit_group", 3)

    def work(_report: int) -> bytes:
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)  # the limit does not hold for root
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        follow(buffer, table.encoded(0, 0))
        return b""

    assert fork.call(work) == (b"", 0)
    assert struct.unpack("i", os.read(reader, 8))[0] == -errno.EAGAIN
    os.close(reader)
    os.close(writer)


def test_descriptors_have_the_numbers_of_the_table(
    buffer: calls.Buffer, table: call_table.Table
) -> None:
    def work() -> str:
        # Descriptors take the lowest free numbers.
        os.closerange(100, 200)
        fds = [os.open("/dev/null", os.O_RDONLY) for dummy in range(calls.MAX_FDS)]
        first = first_received()
        table.add("close", first)
        number = follow(buffer, table.encoded(len(fds), first), fds=fds)
        rest = {os.get_inheritable(first + n) for n in range(1, calls.MAX_FDS)}
        return f"{number} {first_received() - first} {rest}"

    # The three lowest are free again: that of the table, and those of two sockets.
    assert in_child(work) == "-1 0 {False}"


ROOM = calls.SIZE - calls.TABLE * calls.LONG
BEGIN = calls.TABLE + calls.HEAD


def message(size: int, *places: int, count: int = 0, rows: int = 1) -> bytes:
    """A table of rows that are no calls."""
    head = struct.pack("8q", size, *places, count, 0, calls.LAST)
    return head + bytes(rows * calls.ROW * calls.LONG)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        message(64, BEGIN, BEGIN, BEGIN, BEGIN, rows=0)[:56],
        message(72, BEGIN, BEGIN, BEGIN, BEGIN, rows=0),
        message(128, BEGIN - 8, BEGIN, BEGIN, BEGIN),
        message(128, BEGIN, BEGIN + 16, BEGIN + 16, BEGIN + 16),
        message(128, BEGIN, BEGIN + 8, BEGIN + 8, BEGIN + 16),
        message(128, BEGIN, BEGIN + 7, BEGIN + 8, BEGIN + 8),
        message(128, BEGIN + 8, BEGIN, BEGIN, BEGIN),
        message(128, BEGIN, BEGIN + 8, BEGIN, BEGIN + 8),
        message(128, BEGIN, BEGIN, BEGIN, BEGIN + 8, count=1),
        message(ROOM + 64, BEGIN, BEGIN, BEGIN, BEGIN, rows=ROOM // 64),
    ],
    ids="byte cut longer head behind behind2 uneven negative order fds truncated".split(),
)
def test_what_is_no_whole_table_is_refused(buffer: calls.Buffer, data: bytes) -> None:
    with pytest.raises(OSError, match="no whole table") as caught:
        follow(buffer, data)
    assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize(("count", "shift"), [(0, 0), (2, 0), (1, 1), (1 << 60, 0)])
def test_other_descriptors_than_the_table_has_are_refused(
    buffer: calls.Buffer, table: call_table.Table, count: int, shift: int
) -> None:
    def work() -> int:
        try:
            follow(buffer, table.encoded(count, first_received() + shift), fds=[0])
        except OSError as error:
            return error.errno or 0
        return 0

    assert in_child(work) == str(errno.EPROTO)


def test_an_end_of_the_sender_is_no_table(buffer: calls.Buffer) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with closing(theirs), pytest.raises(ConnectionResetError):
        buffer.follow(theirs.fileno())


def test_a_table_beyond_the_buffer_is_refused(table: call_table.Table) -> None:
    table.place(bytes(ROOM))
    with pytest.raises(LaunchError, match="a step: its system calls take"):
        table.encoded(0, 0)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (-errno.EAGAIN, "a step: no more processes are allowed by pids_limit"),
        (-errno.ENOMEM, "a step: fork: Cannot allocate memory"),
        (b"call 1\nerrno 22", "a step: close: Invalid argument"),
        (b"call 7\nerrno 22", "a step: [?]: Invalid argument"),
        (b"", "init died before it was ready"),
    ],
)
def test_a_joiner_without_an_init_is_explained(
    table: call_table.Table, answer: int | bytes, problem: str
) -> None:
    table.add("setns")
    table.add("close")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        theirs.send(struct.pack("i", answer) if isinstance(answer, int) else answer)
        theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(LaunchError, match=f"^{problem}"):
            builder.init_pid(ours, table)
