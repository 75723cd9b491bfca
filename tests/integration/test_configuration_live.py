# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files and secrets that change while a sandbox runs, and how its workload is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from netmode_fixtures import output, run_inside, workload
from sandlot import converge
from sandlot.kernel import mountinfo, namespaces
from sandlot.sandbox import runtime
from sandlot.spec import normalise_all

pytestmark = needs_root
CONF, PASSWORD = "/etc/app.conf", "/run/secrets/password"
# Counts signals in its log; the shell runs a trap once its child has ended.
COUNTING = """
trap 'echo hup >>/told' HUP; trap 'echo usr1 >>/told' USR1
while :; do sleep 1000000 & wait; done
"""
# With 300 changes and 50000 reads each, it takes two minutes.
CHANGES, READS = 10, 2000


def file(content: str, target: str = CONF, **options: Any) -> dict[str, Any]:
    return {"target": target, "content": content, **options}


def secret(value: str, name: str = "password", **options: Any) -> dict[str, Any]:
    return {"name": name, "value": value, **options}


def counting(**options: Any) -> dict[str, Any]:
    return sandbox("a", command=["sh", "-c", COUNTING], **options)


def lines(result: converge.Result) -> list[str]:
    """The actions that are not about options."""
    return [line for line in result.actions if not line.endswith("changed")]


def told(host: Deployment, count: int) -> list[str]:
    """What the workload was told, once it has been told so often."""
    log = Path(host.paths.sandbox("a").upper, "told")
    eventually(lambda: len(log.read_text().split() if log.exists() else []) >= count)
    return log.read_text().split()


@contextmanager
def reader(host: Deployment, *paths: str) -> Iterator[list[int]]:
    """Opens, reads and closes files inside all the time; its exit status, 0 without a fault.

    A whole version is one line, over and over.
    """
    statuses: list[int] = []
    done, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(end)
            os.set_blocking(done, False)
            status = 0 if _read_on(host.pid("a"), paths, done) else 1
        finally:
            os._exit(status)
    os.close(done)
    try:
        yield statuses
    finally:
        os.close(end)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _read_on(init: int, paths: Sequence[str], done: int) -> bool:
    for fd in [os.open(f"/proc/{init}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt")]:
        namespaces.setns(fd, 0)
    seen: dict[str, set[bytes]] = {path: set() for path in paths}
    count, ended = 0, False
    while not ended or count < READS:
        for path, known in seen.items():
            fd = os.open(path, os.O_RDONLY)
            data = os.read(fd, 1 << 16)
            os.close(fd)
            if data not in known and len(set(data.split())) + len(data) != len(version(0)) + 1:
                return False
            known.add(data)
        count += 1
        try:
            ended = ended or not os.read(done, 1)
        except BlockingIOError:
            os.sched_yield()
    return all(len(known) > CHANGES // 2 for known in seen.values())


def version(number: int) -> str:
    return f"{number:05}\n" * 2000


def test_a_reader_sees_whole_versions_only(host: Deployment, each_way: None) -> None:
    host.converged(sandbox("a", files=[file(version(0))], secrets=[secret(version(0))]))
    with reader(host, CONF, PASSWORD) as statuses:
        for number in range(1, CHANGES + 1):
            options = {"files": [file(version(number))], "secrets": [secret(version(number))]}
            result = host.run(sandbox("a", **options))
            assert not result.failed, result.failed
    assert statuses == [0]
    assert host.inside("a", CONF) == host.inside("a", PASSWORD) == version(CHANGES)
    rows = [row for row in mountinfo.by_id(host.pid("a")).values() if row.point == CONF]
    assert len(rows) == 1


def test_a_change_is_seen_at_once_and_the_workload_is_told(host: Deployment) -> None:
    first = {
        "files": [file("one", on_change="reload", mode="0600"), file("x", "/etc/none")],
        "secrets": [secret("old", on_change="reload", reload_signal="USR1"), secret("k", "key")],
    }
    host.converged(counting(**first))
    process, before = workload(host, "a"), mountinfo.by_id(host.pid("a")).keys()
    # Nobody is told of these.
    changed = {**first, "files": [first["files"][0], file("y", "/etc/none", mode="0640")]}
    changed["secrets"] = [first["secrets"][0], secret("l", "key")]
    result = host.converged(counting(**changed))
    assert lines(result) == ["a: replace /etc/none", "a: replace secret key"]
    assert output(host, "a", "cat", "/etc/none", "/run/secrets/key") == "yl"
    # Two changes, two signals, each of them once.
    files = [file(text, path, on_change="reload") for text, path in (("two", CONF), ("z", "/new"))]
    secrets = [
        secret("new", on_change="reload", reload_signal="USR1"),
        secret("t", "t", target="/t"),
    ]
    spec = normalise_all([counting(files=files, secrets=secrets)])
    check = converge.converge(host.paths, converge.request(spec, check=True))
    result = host.converged(counting(files=files, secrets=secrets))
    assert check.actions == result.actions and check.diff == result.diff
    assert lines(result) == [
        "a: add /new",
        f"a: replace {CONF}",
        "a: replace secret password",
        "a: add secret t",
        "a: withdraw /etc/none",
        "a: withdraw secret key",
        "a: send SIGHUP, SIGUSR1 to the workload",
    ]
    assert set(result.diff["after"]["a"]) == {"files (live)", "secrets (live)"}
    assert sorted(told(host, 2)) == ["hup", "usr1"]
    assert output(host, "a", "cat", CONF, "/new", PASSWORD, "/t") == "twoznewt"
    assert output(host, "a", "ls", "/run/secrets") == "password\n"
    assert run_inside(host, "a", "cat", "/etc/none").returncode
    # A file that was made for a file goes with it.
    result = host.converged(counting())
    assert sorted(told(host, 4)) == ["hup", "hup", "usr1", "usr1"]
    gone = run_inside(host, "a", "ls", "-d", CONF, "/new", "/t", PASSWORD).stderr
    assert gone.count("No such file") == 4
    assert workload(host, "a") == process
    assert len(mountinfo.by_id(host.pid("a"))) == len(before) - 3
    assert not os.path.exists(host.paths.sandbox("a").mounts)


def test_a_file_of_the_image_or_the_tenant_is_there_again(host: Deployment) -> None:
    host.converged(sandbox("a"))
    output(host, "a", "sh", "-c", "echo mine >/own; : >/empty")
    image = output(host, "a", "cat", "/etc/passwd")
    files = [file("x", path) for path in ("/etc/passwd", "/own", "/empty")]
    host.converged(sandbox("a", files=files))
    assert output(host, "a", "cat", "/etc/passwd", "/own", "/empty") == "xxx"
    host.converged(sandbox("a"))
    assert output(host, "a", "cat", "/etc/passwd", "/own", "/empty") == f"{image}mine\n"


def test_a_read_only_root_and_memory_take_files_too(host: Deployment, each_way: None) -> None:
    ways = {"read_only": True, "tmpfs": ["/mem"]}
    host.converged(sandbox("a", **ways))
    running = host.pid("a")
    entries = {
        "files": [file("1", "/new/place"), file("1", "/mem/x")],
        "secrets": [secret("1")],
    }
    host.converged(sandbox("a", **ways, **entries))
    changed = {"files": [file("2", "/new/place"), file("2", "/mem/x")], "secrets": [secret("2")]}
    host.converged(sandbox("a", **ways, **changed))
    assert output(host, "a", "cat", "/new/place", "/mem/x", PASSWORD) == "222"
    host.converged(sandbox("a", **ways))
    assert output(host, "a", "ls", "/new", "/mem") == "/mem:\n\n/new:\n"
    assert host.pid("a") == running


@pytest.mark.parametrize("restarted", [{}, {"hostname": "other"}], ids=["live", "restart"])
def test_a_directory_takes_the_place_of_a_file(host: Deployment, restarted: dict[str, str]) -> None:
    """As from /etc/app to /etc/app/main.conf, or to a volume there."""
    host.converged(sandbox("a", files=[file("1", "/app"), file("1", "/data")]))
    spec = sandbox("a", files=[file("2", "/app/main")], volumes=["d:/data"], **restarted)
    host.converged(spec)
    assert output(host, "a", "cat", "/app/main") == "2"
    assert output(host, "a", "ls", "-ld", "/data").startswith("d")


def test_a_restart_makes_a_reload_moot(host: Deployment) -> None:
    entries = [file("1", on_change="restart"), file("1", "/b", on_change="reload")]
    host.converged(counting(files=entries))
    running = host.pid("a")
    # How a change is told of is nothing that a sandbox sees.
    entries = [file("1"), file("1", "/b", on_change="reload")]
    assert lines(host.converged(counting(files=entries))) == []
    entries = [file("1", on_change="restart"), file("1", "/b", on_change="reload")]
    assert lines(host.converged(counting(files=entries))) == [] and host.pid("a") == running
    entries = [file("2", on_change="restart"), file("2", "/b", on_change="reload")]
    result = host.converged(counting(files=entries))
    assert lines(result) == [
        "a: files changed (restart)",
        "a: restart: files changed (restart)",
    ]
    assert host.pid("a") != running and output(host, "a", "cat", CONF, "/b") == "22"
    # For another reason.
    entries = [file("2", on_change="restart"), file("3", "/b", on_change="reload")]
    result = host.converged(counting(files=entries, env={"A": "b"}))
    assert not any("SIGHUP" in line for line in result.actions)
    # A withdrawn one restarts as well.
    running = host.pid("a")
    result = host.converged(counting(files=entries[1:], env={"A": "b"}))
    assert host.pid("a") != running
    assert not Path(host.paths.sandbox("a").upper, "told").exists()


def test_a_stopped_sandbox_gets_no_signal(host: Deployment) -> None:
    entries = {"files": [file("1", on_change="reload")]}
    host.converged(counting(**entries))
    host.converged(counting(state="stopped", **entries))
    changed = {"files": [file("2", on_change="reload")]}
    result = host.converged(counting(state="stopped", **changed))
    assert result.changed and lines(result) == []
    host.converged(counting(**changed))
    assert host.inside("a", CONF) == "2"
    assert not Path(host.paths.sandbox("a").upper, "told").exists()
    assert not os.path.exists(host.paths.sandbox("a").reload)


def test_a_workload_that_a_signal_ends_is_a_failure(host: Deployment) -> None:
    spec = sandbox("a", restart_policy="unless-stopped")
    host.converged({**spec, "files": [file("1", on_change="reload")]})
    changed = {**spec, "files": [file("2", on_change="reload")]}
    result = host.run(changed, watch=20.0)
    assert "was ended by SIGHUP" in result.failed["a"], result.failed
    assert "reload_signal" in result.failed["a"]
    eventually(lambda: runtime.status(host.paths.sandbox("a")).get("state") == "running")
    assert host.inside("a", CONF) == "2"
    assert host.run(changed).actions == []
