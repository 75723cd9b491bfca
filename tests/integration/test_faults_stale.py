# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What outlives its owner: pins, links, cgroups, pids, times. None of it misleads a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from sandlot import cgroups, store
from sandlot.errors import LaunchError
from sandlot.init import status
from sandlot.kernel import mounts, namespaces
from sandlot.launcher.client import Launcher
from sandlot.network.bridge import adapter
from sandlot.sandbox import runtime
from sandlot.site import PINNED

pytestmark = needs_root
ENGINE = Path(__file__).resolve().parent.parent.parent / "module_utils"


# -- pins


def unpin(path: str) -> None:
    while namespaces.is_namespace_file(path):
        mounts.umount(path)


def test_what_stands_in_the_place_of_pins_is_replaced(host: Deployment) -> None:
    host.converged(sandbox("a", state="stopped"))
    box = host.paths.sandbox("a")
    for kind in PINNED:
        unpin(box.pin(kind))
    assert not os.path.exists(box.pin("time"))
    Path(box.pin("time")).write_text("a plain file")
    os.unlink(box.pin("net"))
    os.mkdir(box.pin("net"))
    host.converged(sandbox("a"))
    assert runtime.pinned(host.paths.sandbox("a")) == set(PINNED) - {"time"}
    # Only some are missing; a second mount of one is left over as well.
    host.converged(sandbox("a", state="stopped"))
    unpin(box.pin("uts"))
    mounts.mount(box.pin("net"), box.pin("net"), flags=mounts.MS_BIND)
    host.converged(sandbox("a"))


def test_the_hosts_namespaces_in_the_place_of_pins(host: Deployment) -> None:
    """They would be joined, and the host's network put right, were their owner not looked at."""
    kinds = ("net", "uts", "ipc", "user")
    for kind in kinds:
        host.converged(sandbox("a", state="stopped"))
        pin = host.paths.sandbox("a").pin(kind)
        unpin(pin)
        mounts.mount(f"/proc/self/ns/{kind}", pin, flags=mounts.MS_BIND)
        assert namespaces.is_namespace_file(pin)
        assert runtime.pinned(host.paths.sandbox("a")) < set(PINNED) - {"time"}
        # A start by itself refuses it; a run makes what is due.
        with pytest.raises(LaunchError, match="namespace"):
            raise Launcher(host.paths).start(["a"])["a"]
        host.converged(sandbox("a"))
        inside, ours = (os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (host.pid("a"), "self"))
        assert inside != ours
    # The fixture removes it with the last one in its place.
    host.converged(sandbox("a", state="stopped"))
    unpin(host.paths.sandbox("a").pin("user"))
    mounts.mount("/proc/self/ns/user", host.paths.sandbox("a").pin("user"), flags=mounts.MS_BIND)


# -- links and cgroups


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_a_link_of_ours_without_an_owner(host: Deployment) -> None:
    """One of a sandbox that no record knows goes with a purge; the same name without our mark
    is somebody else's."""
    host.converged(sandbox("a"), sandbox("b"))
    (link,) = [each["link"] for each in store.read(host.paths.sandbox("a").record)["interfaces"]]
    os.unlink(host.paths.sandbox("a").record)
    host.converged(sandbox("b"), purge=True)
    assert not os.path.exists(f"/sys/class/net/{link}")
    ip("link", "add", link, "type", "bridge")
    try:
        with pytest.raises(Exception, match=link):
            host.run(sandbox("a"), sandbox("b"))
        assert os.path.exists(f"/sys/class/net/{link}")
    finally:
        ip("link", "delete", link)
    host.converged(sandbox("a"), sandbox("b"))


def test_links_that_go_while_they_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel deletes those of an ended network namespace at a moment of its own."""
    name = f"sl{os.getpid()}"
    mark = adapter.Links._mark

    def gone(links: adapter.Links, name: str, group: int) -> bool:
        marked = mark(links, name, group)
        ip("link", "delete", name)
        return marked

    with adapter.host() as host:
        ip("link", "add", name, "type", "bridge")
        host.delete([name])
        assert not os.path.exists(f"/sys/class/net/{name}")
        ip("link", "add", name, "type", "bridge")
        monkeypatch.setattr(adapter.Links, "_mark", gone)
        host.delete([name])


def test_cgroups_without_an_owner(host: Deployment) -> None:
    host.converged(sandbox("b"))
    places = [one.sandbox(host.paths, "a") for one in cgroups.detect().hierarchies]
    for place in places:
        os.makedirs(f"{place}/inner")
    with subprocess.Popen(["sleep", "1000"]) as shell:
        try:
            Path(places[0], "inner/cgroup.procs").write_text(str(shell.pid))
            failed = host.run(sandbox("b"), purge=True).failed
            assert f"of no sandbox: process {shell.pid} (sleep)" in failed["a"]
            assert shell.poll() is None
        finally:
            shell.kill()
    host.converged(sandbox("b"), purge=True)
    assert not any(map(os.path.exists, places))


# -- pids


REUSE = """\
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from sandlot import store
from sandlot.kernel import namespaces
from sandlot.launcher import stopper
from sandlot.sandbox import runtime
from sandlot.site import Site

assert os.getpid() == 1
paths = Site(sys.argv[2])
box = paths.sandbox("a")
os.makedirs(box.run)

def record(process):
    started = namespaces.start_time(process.pid)
    identity = {"pid": process.pid, "start_time": started, "boot_id": store.boot_id()}
    store.write(box.init, {**identity, "digest": "d", "since": 0.0})
    return started

def spawn():
    return subprocess.Popen(["sleep", "1000"])

def end(process):
    process.kill()
    process.wait()

first = spawn()
started = record(first)
assert runtime.running(paths.sandbox("a")).pid == first.pid
end(first)
while True:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(first.pid - 1))
    second = spawn()
    if namespaces.start_time(second.pid) != started:
        break
    end(second)

# The control: whoever signals the recorded pid hits the foreign process.
assert second.pid == store.read(box.init)["pid"]
assert runtime.running(paths.sandbox("a")) is None and runtime.open_init(paths.sandbox("a")) is None
stopper.stop_all([box], lambda name, error: None)
assert second.poll() is None

# The other control: a process that is the recorded one is ended.
record(second)
stopper.stop_all([box], lambda name, error: None)
assert second.wait(10) == -9
"""


def test_a_pid_that_was_given_away_is_not_signalled(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", REUSE, str(ENGINE), str(tmp_path)]
    subprocess.run(["unshare", "-pf", "--mount-proc", *argv], check=True, timeout=60)


# -- clocks


JUMP = 400_000_000.0


def test_uptime_after_the_clock_was_set(host: Deployment) -> None:
    """Set back, what began lies in the future; set forward, in a distant past."""
    host.converged(sandbox("a"))
    pid, started = host.pid("a"), time.monotonic()
    for jump in (-JUMP, JUMP):
        pretend(host, time.time() - jump)
        assert abs(time.time() - runtime.status(host.paths.sandbox("a"))["since"]) > JUMP / 2
        assert 0 <= host.info("a")["uptime"] < time.monotonic() - started + 60
        assert host.run(sandbox("a")).actions == [] and host.pid("a") == pid


def pretend(host: Deployment, since: float) -> None:
    """That init and workload began then."""
    box = host.paths.sandbox("a")
    init = store.read(box.init)
    assert init is not None
    store.write(box.init, {**init, "since": since})
    content = status.encoded({**runtime.status(host.paths.sandbox("a")), "since": since})
    Path(box.status).write_bytes(content)


# -- ends


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_waits_for_an_init_that_is_about_to_end(
    host: Deployment, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    """Its status is final before it is dead; one that lives on in spite of that runs."""
    host.run(sandbox("a"))
    pid, wait = host.pid("a"), namespaces.pidfd_ends
    runtime.finish(host.paths.sandbox("a"), "exited")

    def end(pidfd: int, seconds: float) -> bool:
        if ends:
            host.kill("a")
        return wait(pidfd, seconds if ends else 0.0)

    monkeypatch.setattr(namespaces, "pidfd_ends", end)
    assert host.run(sandbox("a")).actions == (["a: start"] if ends else [])
    assert (host.pid("a") != pid) == ends
