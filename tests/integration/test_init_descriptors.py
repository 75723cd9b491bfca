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
from collections.abc import Iterator

from sandboxes import Host, Sandbox, status_fields, switches, until
from sandlot.kernel import fork

SLEEP = ["sleep", "100000"]


def limit_descriptors(box: Sandbox, soft: int) -> None:
    """Set init's limit as its own user may, which this machine's root may not everywhere."""
    uid, pid = box.config["ids"]["uid"], box.init

    def work(_report: int) -> bytes:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        return b""

    assert fork.call(work) == (b"", 0)


def descriptors_at_rest(init: int) -> set[int]:
    """The descriptors of an init that sleeps, else none: at work, it opens and closes others."""
    before, state = switches(init), status_fields(init)["State"]
    used = {int(name) for name in os.listdir(f"/proc/{init}/fd")}
    return used if state.startswith("S") and before == switches(init) else set()


@contextlib.contextmanager
def without_descriptors(box: Sandbox) -> Iterator[None]:
    """Init can open no file, as on a host whose table of files is full."""
    # The next supervisor gets the limit.
    used = until(lambda: descriptors_at_rest(box.asleep().init))
    # No less, as poll(2) takes no more descriptors than the limit.
    limit_descriptors(box, next(fd for fd in itertools.count() if fd not in used))
    try:
        yield
    finally:
        limit_descriptors(box, 1024)


def test_clients_wait_for_descriptors(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    init = box.init
    results: list[bytes] = []
    client = threading.Thread(target=lambda: results.append(box.exec(["echo", "hello"]).stdout))
    before = status_fields(init)["voluntary_ctxt_switches"]
    with without_descriptors(box):
        client.start()
        # Init wakes up for the client, and sleeps again.
        until(lambda: status_fields(init)["voluntary_ctxt_switches"] != before)
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
