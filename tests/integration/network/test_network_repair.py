# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The launcher notices that rules or links are taken away and has them put back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox
from sandlot import lock, network
from sandlot.kernel.namespaces import CLONE_NEWNET, setns, unshare
from sandlot.launcher import command as launcher_command
from sandlot.launcher import watch
from sandlot.launcher.client import Launcher
from sandlot.site import Site

pytestmark = needs_root


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """A deployment in a network namespace, whose rules may be flushed; its Python has pyroute2."""
    monkeypatch.setattr(launcher_command, "SYSTEM_PYTHON", sys.executable)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    try:
        run("ip", "link", "set", "lo", "up")
        with deployed() as deployment:
            yield deployment
    finally:
        setns(before, CLONE_NEWNET)
        os.close(before)


@pytest.fixture
def web(host: Deployment) -> Deployment:
    host.converged(sandbox("a"), sandbox("b"))
    settled(host)
    return host


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def log(host: Deployment) -> str:
    return Path(host.paths.run, "launcher.log").read_text()


def launcher(host: Deployment) -> int:
    answer = Launcher(host.paths).ping()
    assert answer is not None
    return int(answer["pid"])


def helpers(host: Deployment) -> list[int]:
    """Children of the launcher beside the zygote: repairs and those that wait for a run."""
    pid = launcher(host)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if is_helper(child)]


def is_helper(pid: str) -> bool:
    """Told from the zygote and from inits, which have names of their own."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name == "sandlot" or b"repair" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def settled(host: Deployment) -> None:
    eventually(lambda: not helpers(host))


def rules(paths: Site) -> str:
    listed = [
        subprocess.run(
            ["nft", "--stateless", "list", "table", family, paths.nft_table],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for family in ("inet", "bridge")
    ]
    return "".join(listed)


def bridge_flags(paths: Site) -> str:
    return run("ip", "-brief", "link", "show", paths.bridge("default"))


def whole(host: Deployment) -> bool:
    return host.run(sandbox("a"), sandbox("b"), check=True).actions == []


FLUSHES = {
    "all rules": "flush ruleset",
    "one table": "delete table inet {table}",
    "the bridge's table": "delete table bridge {table}",
    "a rule more": "insert rule inet {table} to_host accept",
    "a chain emptied": "flush chain inet {table} leaving",
    "an element more": 'add element inet {table} bridges {{ "other0" }}',
}


@pytest.mark.parametrize("what", FLUSHES)
def test_rules_come_back_without_a_run(web: Deployment, what: str) -> None:
    before = rules(web.paths)
    run("nft", "-f", "-", text=FLUSHES[what].format(table=web.paths.nft_table))
    eventually(lambda: "nftables rules" in log(web))
    settled(web)
    assert rules(web.paths) == before
    assert whole(web)


def test_closed_while_rules_are_missing(web: Deployment) -> None:
    """Held up by the writer lock, as a repair would be by nothing in earnest."""
    assert "UP" in bridge_flags(web.paths)
    with lock.exclusive(web.paths):
        run("nft", "flush", "ruleset")
        eventually(lambda: "DOWN" in bridge_flags(web.paths))
        assert rules(web.paths) == ""
    eventually(lambda: whole(web))
    settled(web)
    assert "UP" in bridge_flags(web.paths)


def test_changes_by_runs_of_ours_start_no_repair(web: Deployment) -> None:
    web.converged(sandbox("a", published_ports=["8080:80"]), sandbox("b"))
    web.converged(sandbox("a"), sandbox("b", networks=[]))
    settled(web)
    assert "nftables" not in log(web) and repairs(web) == 0


def repairs(host: Deployment) -> int:
    """How many repairs the launcher has started; each one takes the writer lock."""
    return len(re.findall("^(network|[ab]):", log(host), re.MULTILINE))


def test_changes_to_foreign_tables_start_no_repair(web: Deployment) -> None:
    run("nft", "-f", "-", text="table inet foreign { chain c { }\n}")
    run("nft", "delete", "table", "inet", "foreign")
    # What the launcher is told comes in order, so this one comes last.
    run("nft", "delete", "table", "inet", web.paths.nft_table)
    eventually(lambda: "nftables rules" in log(web))
    settled(web)
    assert log(web).count("nftables rules") == 1


def test_a_foreign_table_of_our_name_is_left_alone_and_all_stays_closed(web: Deployment) -> None:
    table = web.paths.nft_table
    before = rules(web.paths)
    foreign = f"table inet {table} {{ chain c {{ }}\n}}"
    with lock.exclusive(web.paths):
        run("nft", "-f", "-", text=f"flush ruleset\n{foreign}")
    eventually(lambda: "was not made by sandlot" in log(web))
    assert "DOWN" in bridge_flags(web.paths)
    assert "chain c" in rules(web.paths)
    run("nft", "delete", "table", "inet", table)
    eventually(lambda: rules(web.paths) == before)
    settled(web)
    assert whole(web)


@pytest.mark.parametrize("damage", ["link deleted", "link unplugged", "bridge deleted"])
def test_links_come_back_without_a_run(web: Deployment, damage: str) -> None:
    link = web.paths.link("a", "eth0")
    command = {
        "link deleted": ("ip", "link", "del", link),
        "link unplugged": ("ip", "link", "set", link, "nomaster"),
        "bridge deleted": ("ip", "link", "del", web.paths.bridge("default")),
    }[damage]
    run(*command)
    eventually(lambda: whole(web))
    settled(web)
    assert whole(web)


def test_limits_come_back_with_their_link(web: Deployment) -> None:
    limited = sandbox("a", ingress_rate="10mbit", egress_rate="5mbit")
    web.converged(limited, sandbox("b"))
    run("ip", "link", "del", web.paths.shaper("a", "eth0"))
    eventually(lambda: web.run(limited, sandbox("b"), check=True).actions == [])
    settled(web)


def test_a_launcher_that_starts_later_looks_at_once(web: Deployment) -> None:
    before = rules(web.paths)
    Launcher(web.paths).quit()
    run("nft", "flush", "ruleset")
    Launcher(web.paths, python=sys.executable).ensure()
    eventually(lambda: rules(web.paths) == before)
    settled(web)
    assert whole(web)


def test_a_fight_with_another_tool_slows_down(web: Deployment) -> None:
    """Each repair is undone at once; the next ones wait longer and longer, and all stays closed."""
    table = web.paths.nft_table
    for count in range(1, 4):
        run("nft", "delete", "table", "inet", table)
        eventually(lambda count=count: log(web).count("nftables rules") >= count)
        settled(web)
    run("nft", "delete", "table", "inet", table)
    eventually(lambda: "DOWN" in bridge_flags(web.paths))
    assert helpers(web) == []
    web.converged(sandbox("a"), sandbox("b"))


def test_repair_by_hand(web: Deployment) -> None:
    Launcher(web.paths).quit()
    assert command(web, "--check") == ""
    run("nft", "flush", "ruleset")
    run("ip", "link", "del", web.paths.link("a", "eth0"))
    checked = command(web, "--check")
    assert "network: create nftables rules" in checked and "a: plug eth0" in checked
    assert rules(web.paths) == ""
    assert command(web) == checked
    assert command(web) == ""
    Launcher(web.paths, python=sys.executable).ensure()
    assert whole(web)


def command(host: Deployment, *words: str) -> str:
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    argv = [sys.executable, "-I", host.paths.command, "repair", *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_repair_starts_and_stops_nothing(web: Deployment) -> None:
    web.run(sandbox("b", state="stopped"))
    pid = web.pid("a")
    assert command(web) == ""
    assert web.pid("a") == pid and web.info("b")["state"] == "stopped"


def test_delays_double_and_are_forgotten_after_a_quiet_time(monkeypatch, tmp_path) -> None:
    clock = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watch.os, "posix_spawn", lambda *_: 4_000_000)
    guard = watch.Watch(Site(str(tmp_path)), lambda: None)
    waits = []
    for _ in range(9):
        guard._schedule()
        assert guard.due is not None
        waits.append(guard.due - clock[0])
        clock[0] = guard.due
        guard.act()
        guard.ended(4_000_000, 0)
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    clock[0] += watch.QUIET
    guard._schedule()
    assert guard.due == clock[0]


def test_a_repair_that_fails_is_tried_again_a_few_times(monkeypatch, tmp_path) -> None:
    clock = [1000.0]
    started = []
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watch.os, "posix_spawn", lambda *_: started.append(1) or 4_000_000)
    guard = watch.Watch(Site(str(tmp_path)), lambda: None)
    guard._schedule()
    while guard.due is not None:
        clock[0] = guard.due
        guard.act()
        guard.ended(4_000_000, 256)
    assert len(started) == watch.MAX_FAILURES


def test_the_network_module_knows_what_the_launcher_looks_after(web: Deployment) -> None:
    """The record is gone with the rules."""
    assert os.path.exists(web.paths.watched)
    web.run(purge=True)
    state = network.observe(web.paths)
    for operation in network.teardown_operations(web.paths, state):
        operation.apply()
    assert not os.path.exists(web.paths.watched)
