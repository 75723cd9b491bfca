# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An init that can open no file."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import Host, Sandbox, status_fields, switches, until

SLEEP = ["sleep", "100000"]


def descriptors_at_rest(init: int) -> set[int]:
    """The descriptors of an init that sleeps, else none: at work, it opens and closes others."""
    before, state = switches(init), status_fields(init)["State"]
    used = {int(name) for name in os.listdir(f"/proc/{init}/fd")}
    return used if state.startswith("S") and before == switches(init) else set()


@contextlib.contextmanager
def without_descriptors(box: Sandbox) -> Iterator[None]:
    """Init can open no file, as on a host whose table of files is full."""
    used = until(lambda: descriptors_at_rest(box.asleep().init))
    box.limit(resource.RLIMIT_NOFILE, next(fd for fd in itertools.count() if fd not in used))
    try:
        yield
    finally:
        box.limit(resource.RLIMIT_NOFILE, 1024)


def test_clients_wait_for_descriptors(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    init = box.init
    results: list[bytes] = []
    client = threading.Thread(target=lambda: results.append(box.exec(["echo", "hello"]).stdout))
    with without_descriptors(box):
        client.start()
        (supervisor,) = until(box.supervisors)
        first = int(switches(supervisor)[0])
        # It tries again after a second.
        until(lambda: int(switches(supervisor)[0]) >= first + 2)
        assert not results
    client.join()
    assert results == [b"hello\n"] and box.init == init


def test_a_restart_without_descriptors_fails_as_a_run(sandbox_host: Host) -> None:
    """The policy decides what follows, and PID 1 lives."""
    box = sandbox_host.started("a", SLEEP, restart={"policy": "always", "retries": 0})
    init = box.init
    with without_descriptors(box):
        os.kill(box.workload, signal.SIGKILL)
        box.until(lambda: box.status().get("exit_code") == 126)
        assert "sandlot: starting the workload: " in "".join(box.log("stderr"))
    box.until(lambda: box.status().get("state") == "running")
    assert box.init == init


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("most", [0, 3])
def test_fewer_descriptors_than_it_waits_for_end_nothing(sandbox_host: Host, most: int) -> None:
    """Init and its supervisor wait for events all the same, and are not busy meanwhile."""
    box = sandbox_host.started("a", SLEEP, restart={"policy": "always", "retries": 0}).asleep()
    init = box.init
    cpu, since = cpu_seconds(init), time.monotonic()
    box.limit(resource.RLIMIT_NOFILE, most)
    os.kill(box.workload, signal.SIGKILL)
    box.until(lambda: box.status().get("exit_code") == 126)
    restarts = box.status()["restarts"]
    box.until(lambda: box.status()["restarts"] > restarts + 1)
    assert cpu_seconds(init) - cpu < 0.3 * (time.monotonic() - since)
    box.limit(resource.RLIMIT_NOFILE, 1024)
    box.until(lambda: box.status().get("state") == "running")
    assert box.asleep().init == init
    assert box.exec(["echo", "hello"]).stdout == b"hello\n"
