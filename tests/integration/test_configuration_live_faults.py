# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes of files and secrets by runs that are killed, taken back, or meet a hostile tenant."""

from __future__ import annotations

import itertools
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from killing import killed_after
from mount_fixtures import without_beneath
from netmode_fixtures import output
from sandlot import configuration, converge
from sandlot.build import beneath, live_mounts
from sandlot.kernel import mountinfo
from sandlot.sandbox import mount_state, record, runtime
from test_configuration_live import (
    CONF,
    PASSWORD,
    counting,
    file,
    lines,
    secret,
    told,
)

pytestmark = needs_root
# Moves the directory of a target, replaces it by links, removes it, and makes it again.
FIGHTING = """
mkdir -p /play/real
while true; do
  mv /play/real /play/moved; ln -s /etc /play/real; rm /play/real; ln -s / /play/real
  rm /play/real; mv /play/moved /play/real; rm -rf /play/real; mkdir -p /play/real
done
"""


def wish(number: int, **options: Any) -> dict[str, Any]:
    """Every other version has one file more, and another secret."""
    more = [file("x", "/more", on_change="reload")] if number % 2 else []
    return counting(
        files=[file(f"file {number}", on_change="reload"), *more],
        secrets=[secret(f"value {number}", on_change="reload"), secret("x", f"s{number % 2}")],
        **options,
    )


def leftovers(host: Deployment, name: str = "a") -> list[str]:
    """What a finished run of a sandbox has no use for."""
    known, box = record.load(host.paths, name), host.paths.sandbox(name)
    assert known is not None
    marks = [
        path for path in (box.reload, box.pending_mounts, box.previous) if os.path.exists(path)
    ]
    return marks if configuration.is_tidy(host.paths, known) else [*marks, "values"]


def test_killed_runs_are_continued_and_the_workload_is_told(host: Deployment) -> None:
    host.converged(wish(0))
    running, count, steps = host.pid("a"), 0, 0
    while killed_after(steps + 1, partial(host.run, wish(steps + 1))):
        steps += 1
        result = host.run(wish(steps))
        assert not result.failed, (steps, result.failed)
        assert host.run(wish(steps)).actions == []
        assert host.inside("a", CONF) + host.inside("a", PASSWORD) == f"file {steps}value {steps}"
        root = f"/proc/{running}/root"
        assert sorted(os.listdir(f"{root}/run/secrets")) == ["password", f"s{steps % 2}"]
        assert os.path.exists(f"{root}/more") == bool(steps % 2)
        assert leftovers(host) == []
        count = len(told(host, count + 1))
    assert steps >= 8 and host.pid("a") == running


def test_a_boot_after_a_killed_first_deploy(host: Deployment) -> None:
    """Each record has its values, so that the boot starts what the deploy has recorded."""
    recorded = []
    for step in itertools.count(1):
        killed = killed_after(step, partial(host.run, wish(1)))
        host.reboot()
        done = converge.up(host.paths)
        assert not done.failed, (step, done.failed)
        recorded.append(record.load(host.paths, "a") is not None)
        host.run(purge=True)
        assert not os.path.exists(host.paths.sandbox("a").state), step
        if not killed:
            break
    assert not recorded[0] and recorded.count(True) > 8, recorded


def test_a_restart_after_a_killed_run_has_what_the_record_names(host: Deployment) -> None:
    host.converged(wish(0))
    before = record.load(host.paths, "a")
    step = next(
        n
        for n in range(1, 20)
        if killed_after(n, lambda: host.run(wish(1))) and _changed(host, before)
    )
    assert step
    # The values are there, in whatever state the run has left memory.
    done = converge.lifecycle(host.paths, ["a"], "restart")
    assert not done.failed, done.failed
    assert output(host, "a", "cat", CONF, PASSWORD) == "file 1value 1"
    assert not Path(host.paths.sandbox("a").upper, "told").exists()
    assert host.run(wish(1)).actions == [] and leftovers(host) == []


def _changed(host: Deployment, before: record.Record | None) -> bool:
    return record.load(host.paths, "a") != before


def test_a_failed_restart_or_rebuild_has_the_old_values_again(host: Deployment) -> None:
    good = {"files": [file("old", on_change="restart")], "secrets": [secret("old")]}
    command = ["sh", "-c", f"grep -q old {CONF} || exit 3; sleep 1000000"]
    spec = sandbox("a", command=command)
    host.converged({**spec, **good})
    bad = {"files": [file("new", on_change="restart")], "secrets": [secret("new")]}
    for more in ({}, {"recreate": True}):
        result = host.run({**spec, **bad, **more}, watch=5.0)
        assert "rolled back" in result.failed["a"], result.failed
        assert output(host, "a", "cat", CONF, PASSWORD) == "oldold"
        assert host.run({**spec, **good}).actions == [] and leftovers(host) == []


def test_memory_that_somebody_unmounts_is_filled_again(host: Deployment) -> None:
    spec = wish(1)
    host.converged(spec)
    running = host.pid("a")
    live_mounts.mounts.umount(host.paths.secrets)
    # What runs keeps what it has.
    assert output(host, "a", "cat", PASSWORD) == "value 1"
    result = host.converged(spec)
    assert "a: replace secret password" in lines(result) or "a: add secret password" in lines(
        result
    )
    host.converged(wish(2))
    assert output(host, "a", "cat", PASSWORD) == "value 2" and host.pid("a") == running
    host.kill("a")
    host.converged(wish(2))
    assert host.inside("a", PASSWORD) == "value 2"
    # Nothing is stopped that could not start again.
    running, box = host.pid("a"), host.paths.sandbox("a")
    shutil.rmtree(box.stored_secrets)
    live_mounts.mounts.umount(host.paths.secrets)
    done = converge.lifecycle(host.paths, ["a"], "restart")
    assert "does not have the secret password, secret s0" in done.failed["a"], done.failed
    assert host.pid("a") == running and host.inside("a", PASSWORD) == "value 2"
    host.converged(wish(2))
    assert host.inside("a", PASSWORD) == "value 2" and host.pid("a") == running


def test_memory_that_somebody_empties_is_filled_again(host: Deployment) -> None:
    spec = wish(1)
    host.converged(spec)
    running, box = host.pid("a"), host.paths.sandbox("a")
    for directory in (box.named_secrets, box.memory):
        shutil.rmtree(directory)
        host.converged(spec)
        assert output(host, "a", "cat", PASSWORD) == "value 1" and host.pid("a") == running


def test_a_tenant_that_fights_gains_nothing(host: Deployment, each_way: None) -> None:
    spec = sandbox("a", command=["sh", "-c", FIGHTING])
    host.converged(spec)
    running, before = host.pid("a"), len(mountinfo.by_id(host.pid("a")))
    outside, descriptors = mountinfo.by_id(os.getpid()).keys(), len(os.listdir("/proc/self/fd"))
    problems = ("can't be mounted", "leads to", "inside", "moves it", "in the image")
    for number in range(8):
        files = [file(f"{number}", "/play/real/x")] if number % 4 else []
        for text in host.run({**spec, "files": files}).failed.values():
            assert any(problem in text for problem in problems), text
        ours = [
            row for row in mountinfo.by_id(running).values() if "/sandboxes/a/files/" in row.root
        ]
        assert len(ours) <= 2, [row.point for row in ours]
        assert not any(row.point.startswith(("/proc", "/sys", "/dev")) for row in ours)
    host.run(spec)
    assert host.run(spec).failed == {}
    assert (host.pid("a"), len(mountinfo.by_id(running))) == (running, before)
    assert mountinfo.by_id(os.getpid()).keys() == outside
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not os.path.exists("/x") and not os.path.exists("/etc/x")


def test_a_file_that_is_moved_or_covered_is_an_error(host: Deployment) -> None:
    spec = sandbox("a", capabilities=["SYS_ADMIN"])
    host.converged({**spec, "files": [file("1", "/d/x")], "secrets": [secret("1")]})
    output(host, "a", "sh", "-c", "mv /d /e; mkdir /d; mount -t tmpfs none /run/secrets")
    result = host.run({**spec, "files": [file("2", "/d/x")], "secrets": [secret("2")]})
    assert "/d/x" in result.failed["a"] and "moved or covered" in result.failed["a"]
    output(host, "a", "sh", "-c", "rmdir /d; mv /e /d")
    result = host.run({**spec, "files": [file("3", "/d/x")], "secrets": [secret("3")]})
    assert "/run/secrets" in result.failed["a"], result.failed
    output(host, "a", "umount", "/run/secrets")
    host.converged({**spec, "files": [file("4", "/d/x")], "secrets": [secret("4")]})
    assert output(host, "a", "cat", "/d/x", PASSWORD) == "44"


def test_a_change_after_a_mount_that_was_propagated_but_not_noted(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that mounts dies between the new mount and the removal of the old one."""
    host.converged(sandbox("a", files=[file("1")]))
    with monkeypatch.context() as patched:
        patched.setattr(beneath, "attach", without_beneath)
        patched.setattr(live_mounts._Inside, "_unmount", lambda *_args: os._exit(9))
        assert "ended with status" in host.run(sandbox("a", files=[file("2")])).failed["a"]
        assert output(host, "a", "cat", CONF) == "1"
    host.converged(sandbox("a", files=[file("3")]))
    assert output(host, "a", "cat", CONF) == "3"
    host.converged(sandbox("a"))
    assert not [row for row in mountinfo.by_id(host.pid("a")).values() if row.point == CONF]
    box = host.paths.sandbox("a")
    init = runtime.running(box)
    assert init and mount_state.observe(box, init) == ()
