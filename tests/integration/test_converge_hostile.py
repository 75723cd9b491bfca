# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs against sandboxes that crash or turn hostile in the middle of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot.converge import phases
from sandlot.errors import LaunchError
from sandlot.launcher.client import Launcher
from sandlot.reach import command
from sandlot.sandbox import layers, live, runtime
from sandlot.site import Site

pytestmark = needs_root


def runs(host: Deployment, name: str) -> bool:
    state = runtime.status(host.paths.sandbox(name)).get("state")
    return runtime.running(host.paths.sandbox(name)) is not None and state == "running"


def crash(host: Deployment, *names: str) -> None:
    """Kill their inits until the launcher waits more than a second before the next start."""
    for _ in range(4):
        for name in names:
            host.kill(name)
        eventually(lambda: all(runs(host, name) for name in names))
        # Its turn comes once the revival is over.
        assert not Launcher(host.paths).start(names)
    for name in names:
        host.kill(name)


@pytest.mark.parametrize("end", ["stopped", "absent"])
def test_what_is_ended_after_a_crash_does_not_come_back(host: Deployment, end: str) -> None:
    specs = [sandbox(name, restart_policy="always") for name in ("a", "control")]
    host.converged(*specs)
    # The control crashes later, so that it is revived after the other one would have been.
    crash(host, "a", "control")
    result = host.run({**specs[0], "state": end})
    assert not result.failed and not runs(host, "control")
    eventually(lambda: runs(host, "control"))
    assert not runs(host, "a")


@pytest.mark.parametrize("stopped_first", [True, False], ids=["as it is", "control"])
def test_a_rebuild_is_not_overtaken_by_a_revival(
    host: Deployment, monkeypatch: pytest.MonkeyPatch, stopped_first: bool
) -> None:
    """Otherwise it goes on with a layer that has been removed, and what it writes is lost."""
    specs = [sandbox(name, restart_policy="always") for name in ("a", "control")]
    host.converged(*specs)
    make = layers.make

    def make_late(*arguments: Any) -> None:
        eventually(lambda: runs(host, "control") and (stopped_first or runs(host, "a")))
        make(*arguments)

    monkeypatch.setattr(layers, "make", make_late)
    if not stopped_first:
        monkeypatch.setattr(phases, "_may_revive", lambda decision, seen: False)
    crash(host, "a", "control")
    assert not host.run(specs[0], recreate=True).failed
    assert command.execute(host.paths, "a", ["sh", "-c", "echo 1 >/root/mark"]) in (0, 1)
    assert Path(host.paths.sandbox("a").upper, "root/mark").exists() == stopped_first


def test_ids_are_not_given_away_before_a_removal_has_ended(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An init that hangs in the kernel survives its removal, and its line in /etc/subuid."""
    host.converged(sandbox("a"))
    first = host.info("a")["ids"]
    with monkeypatch.context() as unkillable:
        error = LaunchError("init survived SIGKILL")
        unkillable.setattr(Launcher, "stop", lambda self, names: dict.fromkeys(names, error))
        assert host.run(sandbox("a", state="absent")).failed
        assert host.run(sandbox("b")).failed.keys() == {"a"}
        assert host.info("b")["ids"] != first
    assert not host.run(sandbox("b")).failed
    host.converged(sandbox("b"), sandbox("c"))
    assert host.info("c")["ids"] == first


ATTACK = ["sh", "-c", "mount -o remount,bind,rw /etc/hosts && echo attack >>/etc/hosts"]


def test_host_made_files_stay_the_hosts(host: Deployment) -> None:
    """With SYS_ADMIN their mounts can be made writable; they lie in the host's memory."""
    spec = sandbox("a", capabilities=["SYS_ADMIN"])
    host.converged(spec)
    hosts = Path(host.paths.sandbox("a").etc, "hosts")
    assert command.execute(host.paths, "a", ATTACK) == 1
    assert "attack" not in hosts.read_text()
    first = host.info("a")["ids"]["uid"]
    os.chown(hosts, first, first)
    assert command.execute(host.paths, "a", ATTACK) == 0
    assert "attack" in hosts.read_text()
    assert host.run(spec).changed and "attack" not in hosts.read_text()


def test_an_init_that_accepts_nobody_delays_a_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "ANSWER_SECONDS", 0.2)
    box = Site(str(tmp_path)).sandbox("a")
    os.makedirs(box.run)
    launch = {"restart": {}, "stop": {}, "log_max_size": 1}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as init:
        init.bind(box.socket)
        init.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as full:
            full.connect(box.socket)
            with pytest.raises(LaunchError, match="did not take over"):
                live.configure(box, launch)
        served, _ = init.accept()
        served.close()
        pid = os.fork()
        if pid == 0:
            connection, _ = init.accept()
            connection.recv(4096)
            connection.send(b"ok")
            os._exit(0)
        live.configure(box, launch)
        os.waitpid(pid, 0)
