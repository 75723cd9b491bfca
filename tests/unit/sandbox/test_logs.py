# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The reader of the log ring against the writer, which is init's own."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandlot.init.logs import Log
from sandlot.init.ring import newest
from sandlot.sandbox import last_words
from sandlot.sandbox.logs import Line, Ring
from sandlot.site import SandboxPaths, Site


class Pair:
    """Writer and files of one ring."""

    def __init__(self, paths: SandboxPaths, size: int) -> None:
        os.makedirs(paths.state, exist_ok=True)
        self.paths = paths
        self.fds = tuple(os.open(p, os.O_RDWR | os.O_CREAT, 0o600) for p in paths.logs)
        self.writer = Log([("ring", 2, (0, 0))], self.fds, {"log_max_size": size})
        self.number = 0

    def write(self, count: int) -> None:
        """Numbered lines in pieces of any size."""
        text = b"".join(b"line %d\n" % n for n in range(self.number, self.number + count))
        self.number += count
        while text:
            cut = random.randint(1, 400)
            self.writer.feed("stdout", text[:cut])
            text = text[cut:]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(Site(str(tmp_path)).sandbox("a"), 8192)
    yield made
    for fd in made.fds:
        os.close(fd)


def numbers(lines: list[Line]) -> list[int]:
    return [int(line.text.split()[1]) for line in lines]


def test_nothing_yet(tmp_path: Path) -> None:
    ring = Ring(Site(str(tmp_path)).sandbox("a"))
    assert list(ring.lines()) == []
    ring.close()


@pytest.mark.parametrize("count", [1, 50, 100, 200, 1000])
def test_both_files_in_the_order_of_writing(pair: Pair, count: int) -> None:
    pair.write(count)
    ring = Ring(pair.paths)
    found = numbers(list(ring.lines()))
    ring.close()
    assert found == list(range(count))[-len(found) :]
    assert len(found) == count or len(found) * 60 > 4096


@pytest.mark.parametrize("count", [100, 200, 300])
def test_a_clock_that_was_set_back_changes_no_order(pair: Pair, count: int) -> None:
    """What was written last is older than all before it by the times of the files."""
    pair.write(count)
    current, size = newest((pair.fds[0], pair.fds[1]))
    assert f"line {count - 1}\n".encode() in os.pread(pair.fds[current], size, 0)
    os.utime(pair.fds[current], (1, 1))
    assert newest((pair.fds[0], pair.fds[1])) == (current, size)
    ring = Ring(pair.paths)
    found = numbers(list(ring.lines()))
    ring.close()
    assert found == list(range(count))[-len(found) :]
    assert last_words.last_log(pair.paths, 2) == [f"line {count - 2}", f"line {count - 1}"]


def test_times_decide_where_no_file_is_closed(pair: Pair) -> None:
    """After a full disk, or a version that did not close them."""
    pair.write(100)
    current = newest((pair.fds[0], pair.fds[1]))[0]
    full = pair.fds[1 - current]
    os.ftruncate(full, os.fstat(full).st_size - 1)
    os.utime(full, (2, 2))
    assert newest((pair.fds[0], pair.fds[1]))[0] == current
    os.utime(pair.fds[current], (1, 1))
    assert newest((pair.fds[0], pair.fds[1]))[0] == 1 - current


def test_following_misses_nothing(pair: Pair) -> None:
    """As long as the reader is never a whole file behind, through many switches."""
    ring = Ring(pair.paths)
    found: list[int] = []
    for _ in range(300):
        pair.write(random.randint(0, 40))
        found += numbers(list(ring.lines()))
    ring.close()
    assert found == list(range(pair.number))


def test_a_reader_left_behind_goes_on_with_what_is_there(pair: Pair) -> None:
    ring = Ring(pair.paths)
    pair.write(10)
    found = numbers(list(ring.lines()))
    pair.write(2000)
    found += numbers(list(ring.lines()))
    pair.write(10)
    found += numbers(list(ring.lines()))
    ring.close()
    assert found == sorted(set(found))
    assert found[:10] == list(range(10)) and found[-1] == pair.number - 1


def test_files_that_appear_later(tmp_path: Path) -> None:
    paths = Site(str(tmp_path)).sandbox("a")
    ring = Ring(paths)
    assert list(ring.lines()) == []
    pair = Pair(paths, 8192)
    pair.write(5)
    assert numbers(list(ring.lines())) == list(range(5))
    ring.close()
    for fd in pair.fds:
        os.close(fd)


def test_parts_are_joined_per_stream(tmp_path: Path) -> None:
    pair = Pair(Site(str(tmp_path)).sandbox("a"), 1 << 20)
    long = os.urandom(30000).hex().encode()
    pair.writer.feed("stdout", long)
    pair.writer.feed("stderr", b"between\n")
    pair.writer.feed("stdout", b"end\n")
    ring = Ring(pair.paths)
    found = [(line.stream, line.text) for line in ring.lines()]
    ring.close()
    assert found == [("stderr", b"between"), ("stdout", long + b"end")]
    for fd in pair.fds:
        os.close(fd)


def test_a_line_that_is_being_written_waits(pair: Pair) -> None:
    ring = Ring(pair.paths)
    os.write(pair.fds[0], b"2026-01-01T00:00:00.000000000Z stdout F hal")
    assert list(ring.lines()) == []
    os.write(pair.fds[0], b"f\n")
    assert [line.text for line in ring.lines()] == [b"half"]
    ring.close()


def test_damage_is_skipped(pair: Pair) -> None:
    os.write(pair.fds[0], b"rest of a line\n\n\xff\xfe x y z\n2026 stdout F good\n")
    ring = Ring(pair.paths)
    assert [line.text for line in ring.lines()] == [b"good"]
    ring.close()


def test_a_line_without_an_end_takes_no_memory(pair: Pair) -> None:
    """Init has the files open: taken over, it can give them holes of any size."""
    pair.writer.feed("stdout", b"x" * 16384 + b"\n")
    ring = Ring(pair.paths)
    assert [len(line.text) for line in ring.lines()] == [16384], "the longest that init writes"
    end = os.fstat(pair.fds[0]).st_size + (64 << 20)
    os.pwrite(pair.fds[0], b"\n2026-01-01T00:00:00.000000000Z stdout F after\n", end)
    tracemalloc.start()
    try:
        assert [line.text for line in ring.lines()] == [b"after"]
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    ring.close()
