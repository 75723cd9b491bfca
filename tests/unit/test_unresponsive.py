# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A launcher that does not answer: its processes that are stopped go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sandlot.kernel import confine, flock
from sandlot.launcher import unresponsive
from sandlot.site import Site


# A module that ran in this process has made it undumpable: its files in /proc are root's (proc(5)).
@pytest.mark.skipif(os.geteuid() != 0, reason="looks at namespaces of processes that are root's")
def test_a_stopped_child_of_a_worker_is_continued(tmp_path: Path) -> None:
    """The one that a start with secret values has."""
    site = Site(str(tmp_path))
    os.makedirs(site.run)
    ready, to_tell = os.pipe()
    lock = os.open(site.launcher_lock, os.O_RDWR | os.O_CREAT)
    assert flock.try_take(lock)
    worker = os.fork()
    if worker == 0:
        os.close(lock)
        confine.set_name(unresponsive.WORKER)
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(7)
        os.waitid(os.P_PID, child, os.WSTOPPED)
        os.write(to_tell, b".")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.read(ready, 1)
    unresponsive.wake_own(site, str(worker))
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 7
    for fd in (ready, to_tell, lock):
        os.close(fd)
