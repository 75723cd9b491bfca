# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sandboxes that one worker creates and starts, one after the other."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from sandboxes import Host, children, until, zygote_of
from sandlot.launcher import client

SLEEP = ["sleep", "100000"]
ALWAYS = {"policy": "unless-stopped", "retries": 0}
SIZE = client.TOGETHER["start_all"]


def test_one_of_many_fails_alone(sandbox_host: Host, tmp_path: Path) -> None:
    """What the worker does for one leaves no trace in the next: names, namespaces, descriptors."""
    commands = [SLEEP] * SIZE
    commands[2] = ["no-such-program"]
    commands[3] = ["sh", "-c", "echo $TOKEN; exec sleep 100000"]
    boxes = [
        sandbox_host.sandbox(f"n{i}", command, hostname=f"host-{i}")
        for i, command in enumerate(commands)
    ]
    boxes[4].write(sysctls={"net.ipv4.no_such": "1"})
    # A value for one alone, whose start has a process of its own.
    (tmp_path / "token").write_text("hidden")
    boxes[3].write(secret_env={"TOKEN": str(tmp_path / "token")})
    names = [box.name for box in boxes]
    failed = sandbox_host.launcher.create(names)
    assert list(failed) == ["n4"] and "sysctls" in failed["n4"].message
    failed = sandbox_host.launcher.start(names)
    assert sorted(failed) == ["n2", "n4"]
    assert "no-such-program" in failed["n2"].message and "not pinned" in failed["n4"].message
    until(lambda: not children(zygote_of(sandbox_host.launcher_pid())))
    boxes[3].until(lambda: boxes[3].log() == ["hidden"])
    running = [box for i, box in enumerate(boxes) if i not in (2, 4)]
    for box in running:
        assert box.shell("hostname").stdout == f"host-{names.index(box.name)}\n".encode()
        assert box.shell("ip link show lo | grep -c UP").stdout == b"1\n"
    for kind in ("net", "uts", "ipc", "mnt", "pid", "cgroup", "user"):
        assert len({os.readlink(f"/proc/{box.init}/ns/{kind}") for box in running}) == len(running)


def test_a_slow_preparation_holds_up_nobody(sandbox_host: Host, tmp_path: Path) -> None:
    slow = sandbox_host.sandbox("a", SLEEP, init=["first_start"], first_start=["sleep", "1000"])
    others = [sandbox_host.sandbox(name, SLEEP, restart=ALWAYS) for name in ("b", "c")]
    names = [slow.name, *(box.name for box in others)]
    assert not sandbox_host.launcher.create(names)
    thread = threading.Thread(target=sandbox_host.launcher.start, args=(names,))
    thread.start()
    try:
        until(lambda: all(box.state() == "running" for box in others))
        # One that has crashed starts again, and one can be stopped, as if it had started alone.
        os.kill(others[0].init, signal.SIGKILL)
        until(lambda: others[0].status().get("restarts") == 1)
        others[1].stop()
        assert others[1].state() == "stopped" and slow.state() == "starting"
    finally:
        os.kill(slow.init, signal.SIGKILL)
        thread.join()


def test_a_worker_killed_in_the_middle(sandbox_host: Host) -> None:
    """Whoever has no answer is asked for again; no process and no second init is left."""
    boxes = [sandbox_host.created(f"n{i}", SLEEP, restart=ALWAYS) for i in range(SIZE)]
    names = [box.name for box in boxes]
    launcher = sandbox_host.launcher_pid()
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(sandbox_host.launcher.start(names)))
    known = set(children(launcher))
    thread.start()
    worker = until(lambda: next((p for p in children(launcher) if p not in known), None))
    until(lambda: boxes[2].running() is not None)
    os.kill(worker, signal.SIGKILL)
    thread.join()
    assert results == [{}]
    for box in boxes:
        box.until(lambda box=box: box.running() and box.state() == "running")
