# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tables of system calls: compiled by one process, played by another that checks them first."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandlot import wire
from sandlot.errors import LaunchError
from sandlot.kernel import call_table, calls, fork
from sandlot.security.syscalls import ARCHITECTURES

PLACE = calls.TABLE // calls.LONG


@pytest.fixture(scope="module")
def buffer() -> calls.Buffer:
    return calls.Buffer()


@pytest.fixture
def table(buffer: calls.Buffer) -> call_table.Table:
    return call_table.Table("a step", buffer.address)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def sent(buffer: calls.Buffer, data: bytes, fds: list[int]) -> tuple[int, int]:
    """Send a table to this process; the place of its rows."""
    ours, theirs = wire.pair()
    try:
        wire.transmit(ours, data, fds)
        return buffer.receive(theirs.fileno())
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


def test_numbers_are_those_of_the_architectures() -> None:
    for column, machine in enumerate(("x86_64", "aarch64")):
        numbers = ARCHITECTURES[machine].numbers
        for name, pair in call_table.PAIRS.items():
            assert pair[column] == numbers[name], name


def test_calls_are_made_in_order(
    buffer: calls.Buffer, table: call_table.Table, tmp_path: Path
) -> None:
    os.mkdir(tmp_path / "sub")
    table.add("chdir", os.fsencode(tmp_path) + b"\0")
    table.add("chdir", b"sub\0")
    table.add("umask", 0o027)

    def work() -> str:
        begin, end = sent(buffer, table.encoded(0, 0), [])
        played = buffer.play(begin, end)
        return f"{played == end} {os.getcwd()} {os.umask(0):o}"

    assert in_child(work) == f"True {os.path.realpath(tmp_path)}/sub 27"


def test_a_call_that_fails_is_named_and_is_the_last(
    buffer: calls.Buffer, table: call_table.Table
) -> None:
    table.add("umask", 0o027)
    table.add("chdir", b"/missing\0")
    table.add("umask", 0o022)

    def work() -> str:
        begin, end = sent(buffer, table.encoded(0, 0), [])
        at = buffer.play(begin, end)
        return f"{(at - begin) // calls.ROW} {calls.failed()} {os.umask(0):o}"

    assert in_child(work) == f"1 {errno.ENOENT} 27"
    assert table.failure(1, errno.ENOENT) == "a step: chdir: No such file or directory"


def test_one_errno_may_be_no_failure(buffer: calls.Buffer, table: call_table.Table) -> None:
    table.add("chdir", b"/missing\0", tolerated=errno.ENOENT)
    begin, end = sent(buffer, table.encoded(0, 0), [])
    assert buffer.play(begin, end) == end


def test_descriptors_have_the_numbers_of_the_table(
    buffer: calls.Buffer, table: call_table.Table
) -> None:
    def work() -> str:
        # Descriptors take the lowest free numbers.
        os.closerange(100, 200)
        fds = [os.open("/dev/null", os.O_RDONLY) for dummy in range(calls.MAX_FDS)]
        ours, theirs = wire.pair()
        first = next_descriptor()
        table.add("close", first)
        wire.transmit(ours, table.encoded(len(fds), first), fds)
        begin, end = buffer.receive(theirs.fileno())
        played = buffer.play(begin, end)
        open_ones = [os.get_inheritable(first + n) for n in range(1, calls.MAX_FDS)]
        return f"{played == end} {next_descriptor() == first} {set(open_ones)}"

    assert in_child(work) == "True True {False}"


def head(size: int, begin: int, end: int, count: int = 0, first: int = 0) -> bytes:
    return struct.pack("5q", size, begin, end, count, first)


ROOM = calls.SIZE - calls.TABLE
ROWS = bytes(calls.ROW * calls.LONG)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        head(40, PLACE + 5, PLACE + 5)[:32],
        head(48, PLACE + 5, PLACE + 5),
        head(104, PLACE + 4, PLACE + 12) + ROWS,
        head(104, PLACE + 5, PLACE + 14) + ROWS,
        head(104, PLACE + 5, PLACE + 12) + ROWS,
        head(104, PLACE + 13, PLACE + 5) + ROWS,
        head(104, PLACE + 5, PLACE + 13, 1, 4) + ROWS,
        head(ROOM + 8, PLACE + 5, PLACE + 13) + bytes(ROOM - 32),
    ],
    ids="byte cut longer head behind uneven negative fds truncated".split(),
)
def test_what_is_no_whole_table_is_refused(buffer: calls.Buffer, data: bytes) -> None:
    with pytest.raises(OSError, match="no whole table") as caught:
        sent(buffer, data, [])
    assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize(("count", "shift"), [(0, 0), (2, 0), (1, 1)])
def test_other_descriptors_than_the_table_has_are_refused(
    buffer: calls.Buffer, table: call_table.Table, count: int, shift: int
) -> None:
    def work() -> int:
        ours, theirs = wire.pair()
        wire.transmit(ours, table.encoded(count, next_descriptor() + shift), [0])
        try:
            buffer.receive(theirs.fileno())
        except OSError as error:
            return error.errno or 0
        return 0

    assert in_child(work) == str(errno.EPROTO)


def test_an_end_of_the_peer_is_no_table(
    buffer: calls.Buffer, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[0].close()
    with pytest.raises(ConnectionResetError):
        buffer.receive(pair[1].fileno())


def test_a_table_beyond_the_buffer_is_refused(table: call_table.Table) -> None:
    table.place(bytes(ROOM))
    with pytest.raises(LaunchError, match="a step: its system calls take"):
        table.encoded(0, 0)
