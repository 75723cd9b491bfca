# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A sandbox that takes all there is, on version 2 of cgroups and the disk of a real host.

Its neighbour is asked meanwhile; `worker` is stopped and started again, and the teardown that
follows compares what is left.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

import pytest
from guest import Guest
from hosts import CGROUP, SUITES_CUT, fetch, inspected, until

SUITES_WANTED = SUITES_CUT
STATE = "/var/lib/sandlot"
FILLER = f"{STATE}/filler"
MIB = 1 << 20
# What the disk has left, but for root's blocks.
LEFT = 48 * MIB
FILL = "while :; do dd if=/dev/zero of=/fill$((n=n+1)) bs=64k; usleep 1000; done"
FORK = "awk 'BEGIN { while (1) system(\"sleep 1000 &\") }'"
ALLOCATE = "while :; do tail /dev/zero; done"
FILL_MEMORY = "while :; do dd if=/dev/zero of=/tmp/fill bs=64k; usleep 1000; done"


def statvfs(guest: Guest) -> tuple[int, int]:
    """Bytes that are free, and those that only root may take."""
    size, free, available = map(int, guest.root(f"stat -f -c '%S %f %a' {STATE}").split())
    return size * free, size * (free - available)


@contextlib.contextmanager
def small_disk(guest: Guest) -> Iterator[None]:
    free, kept = statvfs(guest)
    guest.root(f"fallocate -l {free - kept - LEFT} {FILLER}")
    try:
        yield
    finally:
        guest.root(f"rm {FILLER}")


def hog(guest: Guest, script: str) -> None:
    """Run ``script`` in `worker` until it ends with it."""
    detached = f"({script}) > /dev/null 2>&1 < /dev/null &"
    guest.root(shlex.join(["sandlot", "exec", "worker", "--", "sh", "-c", detached]))


def is_looked_into_and_stopped(guest: Guest) -> None:
    assert fetch(guest) == "hello"
    assert inspected(guest, ["worker"])["worker"]["state"] == "running"
    assert guest.root("sandlot exec worker -- echo hello") == "hello"
    guest.root("sandlot stop worker")
    assert fetch(guest) == "hello"
    assert inspected(guest, ["worker"])["worker"]["state"] == "stopped"


@pytest.fixture
def worker(guest: Guest, deployed: str) -> Iterator[None]:
    """It runs before and after."""
    yield
    guest.root("sandlot start worker")


def test_space(guest: Guest, worker: None) -> None:
    _, kept = statvfs(guest)
    with small_disk(guest):
        hog(guest, FILL)
        until(lambda: statvfs(guest)[0] - kept < MIB, "it has filled the disk")
        is_looked_into_and_stopped(guest)
        # Root's share of the blocks is there for root.
        assert statvfs(guest)[0] > 0.9 * kept
    guest.root("sandlot start worker && sandlot exec worker -- sh -c 'rm /fill*'")


def test_processes(guest: Guest, worker: None) -> None:
    hog(guest, FORK)
    limit = guest.root(f"cat {CGROUP}/worker/pids.max")
    until(lambda: guest.root(f"cat {CGROUP}/worker/pids.current") == limit, "no process is left")
    is_looked_into_and_stopped(guest)
    assert guest.root(f"cat {CGROUP}/worker/pids.max") == limit


def test_memory(guest: Guest, worker: None) -> None:
    before = kills(guest)
    hog(guest, ALLOCATE)
    until(lambda: kills(guest) > before, "the kernel kills for memory")
    is_looked_into_and_stopped(guest)


def kills(guest: Guest) -> int:
    return int(guest.root(f"sed -n 's/^oom_kill //p' {CGROUP}/worker/memory.events"))


def test_memory_of_a_tmpfs(guest: Guest, worker: None) -> None:
    """The kernel may kill init as well, and the launcher starts it again."""
    before = kills(guest)
    hog(guest, FILL_MEMORY)
    until(lambda: kills(guest) > before, "the kernel kills for memory")
    assert fetch(guest) == "hello"
    guest.root("sandlot list")
    guest.root("sandlot stop worker")
    assert inspected(guest, ["worker"])["worker"]["state"] == "stopped"


# In one script, as the shell of a user who logs in could open none of its libraries. `read` would
# get one character, as the kernel gives such a file to the first read(2) alone.
_WITHOUT_FILES = """
set -- $(cat /proc/sys/fs/file-nr)
trap "sysctl -q fs.file-max=$3" EXIT
sysctl -q "fs.file-max=$1"
sandlot list
timeout 5 sandlot exec worker -- true || true
"""


def test_descriptors_of_the_host(guest: Guest, worker: None) -> None:
    """A table of files that is full is full for all but root; init waits, and does not die."""
    pid = inspected(guest, ["worker"])["worker"]["pid"]
    assert "worker" in guest.root(_WITHOUT_FILES)
    assert guest.root("sandlot exec worker -- echo hello") == "hello"
    assert inspected(guest, ["worker"])["worker"]["pid"] == pid
