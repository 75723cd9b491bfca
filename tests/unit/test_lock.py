# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The writer lock: one holder, no trace, no two holders around a teardown."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from sandlot import lock
from sandlot.errors import SandlotError, StateError
from sandlot.kernel import processes
from sandlot.site import Site


def test_a_run_that_makes_no_state_leaves_none(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    with lock.exclusive(paths):
        assert os.path.exists(paths.lock)
    assert not os.path.exists(paths.state)


def test_state_that_a_run_made_stays(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    with lock.exclusive(paths):
        Path(paths.networks_file).write_text("{}")
    assert sorted(os.listdir(paths.state)) == ["lock", "networks.json"]


def test_a_second_writer_is_told_what_it_waits_for(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    with (
        lock.exclusive(paths),
        pytest.raises(SandlotError, match=f"run, process {os.getpid()} .*has held"),
    ):
        with lock.exclusive(paths, wait=0.0):
            pass


def test_who_waited_for_a_removed_lock_takes_the_one_in_place(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    os.makedirs(paths.state)
    entered = threading.Event()

    def wait() -> None:
        with lock.exclusive(paths):
            entered.set()

    waiter = threading.Thread(target=wait)
    with lock.exclusive(paths):
        waiter.start()
        os.unlink(paths.lock)
    waiter.join(30)
    assert entered.is_set()
    assert os.path.exists(paths.lock)


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "socket"])
def test_what_is_no_lock_file_is_named(tmp_path: Path, kind: str) -> None:
    paths = Site(str(tmp_path))
    os.makedirs(paths.state)
    Path(paths.state, "target").write_text("")
    with socket.socket(socket.AF_UNIX) as bound:
        {
            "directory": lambda: os.mkdir(paths.lock),
            "fifo": lambda: os.mkfifo(paths.lock),
            "link": lambda: os.symlink("target", paths.lock),
            "socket": lambda: bound.bind(paths.lock),
        }[kind]()
        with pytest.raises(StateError, match=f"not the lock file of sandlot; remove {paths.lock}"):
            with lock.exclusive(paths):
                pass
    assert os.path.lexists(paths.lock)


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with lock.exclusive(paths):
            os.write(writer, b"x")
            signal.pause()
    assert os.read(reader, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with lock.exclusive(paths, wait=0.0):
        assert processes.flock_holder(paths.lock) == os.getpid()
