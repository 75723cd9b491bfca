# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What init writes to the journal, whatever state that is in, and how streams are opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandlot.init import journal
from sandlot.init.logs import Log
from sandlot.site import Site

LINE = b"x" * 999 + b"\n"


class Peer:
    """A journal's end of a stream."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair()
        ours.setblocking(False)
        self.writer = journal.Stream(ours.detach())

    def read(self) -> bytes:
        """All that is there."""
        self.sock.setblocking(False)
        data = b""
        try:
            while more := self.sock.recv(1 << 16):
                data += more
        except BlockingIOError:
            return data
        return data


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.sock.close()
    if made.writer._fd is not None:
        os.close(made.writer._fd)


def test_lines_arrive(peer: Peer) -> None:
    peer.writer.write(b"one\ntwo\n")
    peer.writer.write(b"three\n")
    assert peer.read() == b"one\ntwo\nthree\n"
    assert peer.writer.lost == 0


def test_a_journal_that_hangs_gets_whole_lines_and_the_number_of_those_lost(peer: Peer) -> None:
    sent = 0
    while not peer.writer.lost:
        peer.writer.write(LINE * 7)
        sent += 7
    for _ in range(5):
        peer.writer.write(LINE)
        sent += 1
    first = peer.read()
    lost = peer.writer.lost
    peer.writer.write(b"again\n")
    rest = peer.read()
    lines = (first + rest).splitlines(keepends=True)
    assert lines[-2:] == [b"sandlot: %d bytes are missing here\n" % lost, b"again\n"]
    assert set(lines[:-2]) == {LINE}
    assert len(lines) - 2 + lost // len(LINE) == sent
    assert peer.writer.lost == 0


def test_more_than_fits_at_once_is_cut_after_a_line(peer: Peer) -> None:
    peer.writer.write(LINE * 2000)
    lost = peer.writer.lost
    assert lost
    first = peer.read()
    peer.writer.write(b"again\n")
    lines = (first + peer.read()).splitlines(keepends=True)
    assert lines[-2:] == [b"sandlot: %d bytes are missing here\n" % lost, b"again\n"]
    assert (len(lines) - 2) * len(LINE) + lost == 2000 * len(LINE)


def test_a_journal_that_has_gone_is_nothing_to_init(peer: Peer) -> None:
    peer.sock.close()
    peer.writer.write(b"one\n")
    peer.writer.write(b"two\n")
    assert peer.writer._fd is None


def test_lines_of_the_ring_come_without_their_heads(tmp_path: Path) -> None:
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab"]
    pairs = [socket.socketpair() for _ in range(2)]
    opened = (("ring", 2, (0, 0)), ("journal", 2, None))
    fds = [*files, *(ours.fileno() for ours, _ in pairs)]
    log = Log(opened, fds, {"log_max_size": 1 << 20})
    log.feed("stdout", b"<0>panic\nto be ")
    log.feed("stderr", b" spaces  stay \n")
    log.feed("stdout", b"continued\n\n")
    log.feed("stdout", b"y" * 40000)
    log.flush("stdout")
    found = [theirs.recv(1 << 20) for _, theirs in pairs]
    assert found[1] == b" spaces  stay \n"
    *short, first, second, third, _ = found[0].split(b"\n")
    assert short == [b"<0>panic", b"to be continued", b""]
    assert [len(part) for part in (first, second, third)] == [16384, 16384, 40000 - 2 * 16384]
    for pair in pairs:
        for sock in pair:
            sock.close()
    for fd in files:
        os.close(fd)


def listener(paths: Site) -> socket.socket:
    os.makedirs(os.path.dirname(paths.journal))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(paths.journal)
    return sock


@pytest.mark.parametrize("address", ["web", "web/rebuild/next"])
def test_the_header_names_the_sandbox(tmp_path: Path, address: str) -> None:
    paths = Site(str(tmp_path))
    with listener(paths) as server:
        server.listen()
        fds = journal.streams(paths.addressed(address))
        assert len(fds) == 2
        for fd, level in zip(fds, (6, 3)):
            assert not os.get_blocking(fd)
            assert not os.get_inheritable(fd)
            os.write(fd, b"text\n")
            with server.accept()[0] as connection:
                expected = f"sandlot/web\n\n{level}\n0\n0\n0\n0\ntext\n".encode()
                assert connection.recv(4096) == expected
            os.close(fd)


def test_without_a_journal_there_is_no_stream(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    box = paths.sandbox("web")
    before = os.listdir("/proc/self/fd")
    assert journal.streams(box) == []
    with listener(paths) as server:
        assert journal.streams(box) == []  # nobody listens
        server.listen(0)
        waiting = []
        # One that accepts nothing: the queue fills, and nobody may wait.
        while found := journal.streams(box):
            waiting += found
            assert len(waiting) < 20
        for fd in waiting:
            os.close(fd)
    os.unlink(paths.journal)
    Path(paths.journal).write_text("no socket")
    assert journal.streams(box) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)
