# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Rebuilds are transactions: afterwards the new one runs, or the old one runs again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, fetch, free_port, needs_root, sandbox
from killing import killed_after, killed_at
from sandlot import converge
from sandlot.converge import rebuild, rollback
from sandlot.errors import HostError
from sandlot.launcher.client import Launcher
from sandlot.sandbox import health, record, runtime
from sandlot.snapshots import store

pytestmark = needs_root
OLD = ["sh", "-c", "echo old says; exec sleep 1000000"]
FAILING = ["sh", "-c", "echo new says; exit 7"]
MISSING = ["/does/not/exist"]
IMPOSSIBLE = {"net.ipv4.no_such_thing": "1"}


def old(name: str = "a", **options: Any) -> dict[str, Any]:
    return sandbox(name, **{"command": OLD, **options})


def mark(host: Deployment, name: str) -> None:
    Path(f"/proc/{host.pid(name)}/root/mark").touch()


def is_marked(host: Deployment, name: str) -> bool:
    return Path(host.paths.sandbox(name).upper, "mark").exists()


def is_kept(host: Deployment, name: str) -> bool:
    """Whether the newest snapshot has the mark; then it is the only one, and complete."""
    loaded = store.load_all(host.paths)
    assert not loaded.broken and store.leftovers(host.paths) == []
    for snapshot in loaded.good:
        assert os.listdir(host.paths.snapshot(name, snapshot.id).upper).count("mark") == 1
    return bool(loaded.good)


def namespaces(host: Deployment, name: str) -> dict[str, int]:
    """Of what runs; those that are pinned have to be the same."""
    found = {}
    for kind in runtime.pinned(host.paths.sandbox(name)):
        found[kind] = os.stat(f"/proc/{host.pid(name)}/ns/{kind}").st_ino
        assert os.stat(host.paths.sandbox(name).pin(kind)).st_ino == found[kind]
    return found


def log_has(host: Deployment, name: str, text: str) -> bool:
    logs = [Path(path) for path in host.paths.sandbox(name).logs]
    return any(text in path.read_text() for path in logs if path.exists())


def left_beside(host: Deployment, name: str) -> list[str]:
    places = (host.paths.sandbox(name).rebuild, f"{host.paths.sandbox(name).run}/rebuild")
    mounted = Path("/proc/self/mountinfo").read_text()
    return [place for place in places if os.path.lexists(place) or place in mounted]


def assert_old(host: Deployment, name: str, before: dict[str, int]) -> None:
    """It runs in what it ran in before, and there is nothing to do."""
    assert is_marked(host, name) and namespaces(host, name) == before
    assert record.load(host.paths, name).phase == record.PRESENT  # type: ignore[union-attr]
    assert left_beside(host, name) == []


def test_the_new_one_has_the_identity_and_nothing_else_of_the_old(host: Deployment) -> None:
    port = free_port()
    web = ["httpd", "-f", "-p", "80", "-h", "/etc"]
    spec = sandbox("a", command=web, published_ports=[f"{port}:80"])
    host.converged(spec)
    before, inside = host.info("a"), namespaces(host, "a")
    mark(host, "a")
    checked = host.run(spec, recreate=True, check=True)
    result = host.converged(spec, recreate=True)
    assert checked.actions == result.actions and checked.diff == result.diff
    after = host.info("a")
    assert not is_marked(host, "a") and left_beside(host, "a") == []
    assert not set(namespaces(host, "a").values()) & set(inside.values())
    for key in ("ids", "addresses", "interfaces", "published_ports"):
        assert after[key] == before[key]
    assert fetch("127.0.0.1", port)


@pytest.mark.parametrize(
    "command, cause",
    [(MISSING, "command not found"), (FAILING, "exit code 7")],
    ids=["does not start", "ends at once"],
)
def test_a_broken_command_is_rolled_back(host: Deployment, command: list[str], cause: str) -> None:
    host.converged(old())
    mark(host, "a")
    before, pid = namespaces(host, "a"), host.pid("a")
    for _ in range(2):
        result = host.run(old(command=command, hostname="other"), recreate=True)
        assert list(result.failed) == ["a"] and cause in result.failed["a"]
        assert "the old one runs again; its log ended with:\n    old says" in result.failed["a"]
        logged = "new one's log ends with:\n    new says" in result.failed["a"]
        assert logged == (command == FAILING)
        last = result.failed["a"].partition("; its log ended with")[2]
        assert "new says" not in last
        assert host.pid("a") != pid
        assert_old(host, "a", before)
        assert host.run(old()).actions == []
    control = host.converged(old(hostname="other"), recreate=True)
    assert control.changed and not is_marked(host, "a")
    assert log_has(host, "a", "old says")


@pytest.mark.parametrize(
    "check, cause",
    [
        ("echo bad; exit 1", "unhealthy after 2 failed checks; its healthcheck said: bad"),
        ("exec sleep 60", "is not healthy in time"),
        ("true", ""),
    ],
    ids=["fails", "hangs", "control"],
)
def test_one_that_is_not_healthy_is_rolled_back(host: Deployment, check: str, cause: str) -> None:
    host.converged(old())
    mark(host, "a")
    before = namespaces(host, "a")
    checked = {"test": check, "interval": "100ms", "timeout": "30s", "retries": 2}
    new = old(healthcheck=checked, healthy_wait_timeout=2 if "sleep" in check else None)
    result = host.run(new, recreate=True)
    if cause:
        assert cause in result.failed["a"] and "the old one runs again" in result.failed["a"]
        assert_old(host, "a", before)
        assert host.run(old()).actions == []
    else:
        assert not result.failed and not is_marked(host, "a")
        assert host.run(new).actions == []


def test_a_job_that_has_ended_well_is_no_failure(host: Deployment) -> None:
    job = sandbox("a", command=["true"], restart_policy="no", state="present")
    host.converged(job)
    assert not host.run({**job, "state": "started"}, recreate=True).failed


@pytest.mark.parametrize("works", [False, True], ids=["fails", "control"])
def test_a_failing_preparation_leaves_the_old_one_alone(host: Deployment, works: bool) -> None:
    host.converged(old(), old("b"))
    mark(host, "a")
    before, pid = namespaces(host, "a"), host.pid("a")
    port = free_port()
    sysctls = {"net.ipv4.ip_forward": "0"} if works else IMPOSSIBLE
    specs = [old(sysctls=sysctls, published_ports=[f"{port}:80"]), old("b")]
    result = host.run(*specs, recreate=True, purge=True)
    assert list(result.failed) == ([] if works else ["a"])
    assert (host.pid("a") == pid) == (not works)
    if not works:
        assert "sysctls" in result.failed["a"] and "left alone" in result.failed["a"]
        assert_old(host, "a", before)
        assert host.run(old(), old("b"), purge=True).actions == []


def test_what_does_not_run_is_switched_without_a_start(host: Deployment) -> None:
    host.converged(old())
    mark(host, "a")
    host.converged(old(state="stopped"))
    result = host.converged(old(state="stopped", command=MISSING), recreate=True)
    assert result.actions[-1] == "a: switch to the new layer and namespaces (rebuild)"
    assert runtime.running(host.paths.sandbox("a")) is None and not is_marked(host, "a")


def test_of_several_each_fails_for_itself(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c", "d", "e"]
    host.converged(*(old(name) for name in names))
    for name in names:
        mark(host, name)
    before = {name: namespaces(host, name) for name in names}
    broken = {"b": {"command": FAILING}, "c": {"sysctls": IMPOSSIBLE}, "d": {"command": MISSING}}
    calls = counted(monkeypatch, "create")
    result = host.run(*(old(name, **broken.get(name, {})) for name in names), recreate=True)
    assert set(result.failed) == set(broken)
    assert [len(call) for call in calls] == [len(names)]
    for name in names:
        if name in broken:
            assert_old(host, name, before[name])
        else:
            assert not is_marked(host, name) and left_beside(host, name) == []
    assert host.run(*(old(name) for name in names)).actions == []


def counted(monkeypatch: pytest.MonkeyPatch, operation: str) -> list[list[str]]:
    calls: list[list[str]] = []
    real = getattr(Launcher, operation)

    def call(self: Launcher, names: Iterable[str]) -> Any:
        calls.append(list(names))
        return real(self, calls[-1])

    monkeypatch.setattr(Launcher, operation, call)
    return calls


@pytest.mark.parametrize("command", [OLD, FAILING], ids=["commits", "rolled back"])
def test_who_shares_its_network_follows(host: Deployment, command: list[str]) -> None:
    side = sandbox("side", network_mode="container:a")
    host.converged(old(), side)
    before = host.pid("side")
    result = host.run(old(command=command), recreate=True)
    assert bool(result.failed) == (command == FAILING)
    pin = os.stat(host.paths.sandbox("a").pin("net")).st_ino
    assert os.stat(f"/proc/{host.pid('side')}/ns/net").st_ino == pin
    assert host.pid("side") != before
    assert host.run(old(), side).actions == []


@pytest.mark.parametrize("recreate", [False, True], ids=["restarted", "rebuilt"])
def test_who_depends_on_it_runs_again(host: Deployment, recreate: bool) -> None:
    after = old("z", depends_on=["a"], network_mode="container:a")
    host.converged(old(), after)
    mark(host, "a")
    before = namespaces(host, "a")
    changed = {**after, "hostname": "new", "recreate": recreate}
    result = host.run(old(command=MISSING, recreate=True), changed)
    assert set(result.failed) == ({"a", "z"} if recreate else {"a"}), result.failed
    assert_old(host, "a", before)
    assert os.stat(f"/proc/{host.pid('z')}/ns/net").st_ino == before["net"]
    assert host.run(old(), after if recreate else {**after, "hostname": "new"}).actions == []


def test_a_run_that_fails_as_a_whole_puts_all_back(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.converged(old(), old("b"))
    before = {}
    for name in ("a", "b"):
        mark(host, name)
        before[name] = namespaces(host, name)
    save = record.save

    def full(paths: Any, entry: record.Record) -> None:
        if entry.name == "b" and entry.spec.hostname == "new":
            raise OSError(28, "No space left on device")
        save(paths, entry)

    monkeypatch.setattr(record, "save", full)
    with pytest.raises(HostError, match="No space left.*; b was rolled back"):
        host.run(old(), old("b", hostname="new"), recreate=True)
    assert not is_marked(host, "a")
    assert_old(host, "b", before["b"])
    assert host.run(old(), old("b")).actions == []


# -- killed


def assert_old_or_new(host: Deployment, name: str, address: list[str], *, committed: bool) -> None:
    assert host.info(name)["addresses"] == address
    assert is_marked(host, name) != committed
    assert is_kept(host, name) == committed
    assert len(namespaces(host, name)) >= 4
    assert left_beside(host, name) == []


def is_committed(host: Deployment, name: str) -> bool:
    known = record.load(host.paths, name)
    assert known is not None
    return known.phase == record.PRESENT and known.spec.hostname == "new"


@pytest.mark.parametrize("then, stride", [("another run", 1), ("reboot", 2), ("teardown", 2)])
def test_killed_after_any_step(
    host: Deployment, then: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STEADY_SECONDS", 0.0)
    number, killed, outcomes = 1 - stride, True, set()
    while killed:
        number += stride
        host.converged(sandbox("other"), purge=True, purge_snapshots=True)
        host.converged(old(), sandbox("other"))
        address = host.info("a")["addresses"]
        mark(host, "a")
        killed = killed_after(number, lambda: host.run(old(hostname="new"), recreate=True))
        committed = is_committed(host, "a")
        outcomes.add(committed)
        if then == "teardown":
            assert not host.run(purge=True).failed
            assert os.listdir(host.paths.sandboxes) == []
            continue
        if then == "reboot":
            host.reboot()
            assert not converge.up(host.paths).failed
        else:
            checked = host.run(sandbox("other"), check=True).actions
            result = host.run(sandbox("other"))
            assert not result.failed and result.actions == checked
        assert_old_or_new(host, "a", address, committed=committed)
        same = old(hostname="new") if committed else old()
        assert host.run(same, sandbox("other"), purge=True).actions == []
    assert outcomes == {True, False} and number > 8


@pytest.mark.parametrize("call", ["rename", "makedirs"])
def test_killed_in_the_switch_and_in_the_way_back(
    host: Deployment, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each rename of the switch, then at each rename of what puts back."""
    monkeypatch.setattr(health, "STEADY_SECONDS", 0.0)
    number, killed = 0, True
    while killed:
        number += 1
        host.converged(old(), purge=True)
        mark(host, "a")
        before = namespaces(host, "a")
        killed = killed_at(number, call, [rebuild], lambda: host.run(old(), recreate=True))
        killed_at(number, "rename", [rollback], lambda: host.run(old()))
        assert not host.run(old()).failed
        if killed:
            assert is_marked(host, "a")
            assert left_beside(host, "a") == []
            assert set(namespaces(host, "a")) == set(before)
        assert host.run(old()).actions == []
