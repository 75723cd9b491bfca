# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot kill, wait, rm and stats on a deployed host."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from exec_fixtures import COMMAND, Terminal, environment
from sandboxes import children, status_fields
from sandlot.cli.stats import HEADS
from sandlot.snapshots import store

pytestmark = needs_root

COUNTS = "trap 'echo usr' USR1; trap 'exit 7' TERM; while :; do sleep 0.05; done"


def sandlot(host: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], env=environment(host), capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


def data(host: Deployment, *words: str) -> Any:
    done = sandlot(host, *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def waiting(host: Deployment) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def wait(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "wait", *words], env=environment(host), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        # The wait has begun once its inotify descriptor has a watch.
        eventually(lambda: "inotify wd" in _inotify(process.pid))
        return process

    yield wait
    for process in started:
        process.kill()
        process.communicate()


def _inotify(pid: int) -> str:
    texts = []
    for entry in Path(f"/proc/{pid}/fdinfo").glob("*"):
        # It may close others meanwhile.
        with contextlib.suppress(FileNotFoundError):
            texts.append(entry.read_text())
    return " ".join(texts)


def test_kill_and_wait(host: Deployment, waiting: Any) -> None:
    """SIGKILL is an end without a restart; other signals are the workload's business."""
    host.run(sandbox("a"), sandbox("b", command=["sh", "-c", COUNTS]))
    wait = waiting("b", "a")
    assert sandlot(host, "kill", "-s", "usr1", "b").returncode == 0
    eventually(lambda: sandlot(host, "logs", "b").stdout == "usr\n")
    done = sandlot(host, "kill", "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (host.info("a")["state"], host.info("a")["exit_code"]) == ("stopped", 137)
    assert wait.poll() is None
    # The stop signal is an end, too, in the time that the workload takes.
    assert sandlot(host, "kill", "--signal=15", "b").returncode == 0
    assert wait.communicate(timeout=30) == ("7\n137\n", "") and wait.returncode == 0
    assert data(host, "wait", "a") == [{"name": "a", "exit_code": 137}]
    assert host.info("b")["restarts"] == 0
    # A deploy starts both again: their desired state is the same.
    result = host.run(sandbox("a"), sandbox("b", command=["sh", "-c", COUNTS]))
    assert sorted(result.changes) == ["a", "b"]


def test_the_restart_policy_decides_after_other_signals(host: Deployment, waiting: Any) -> None:
    host.run(sandbox("a"), sandbox("once", restart_policy="no"))
    wait = waiting("once")
    assert sandlot(host, "kill", "-s", "HUP", "a", "once").returncode == 0
    assert wait.communicate(timeout=30)[0] == "129\n"
    eventually(lambda: host.info("a")["restarts"] == 1 and host.info("a")["state"] == "running")
    done = sandlot(host, "kill", "once", "a", "nobody")
    assert done.returncode == 1
    assert done.stderr.splitlines()[::2] == [
        "sandlot: once is not running",
        "sandlot: no sandbox is named 'nobody'",
    ]
    assert host.info("a")["state"] == "stopped"
    wrong = sandlot(host, "kill", "-9", "once")
    assert wrong.returncode == 1 and "hint: write -s 9" in wrong.stderr
    wrong = sandlot(host, "kill", "-s", "BOGUS", "a")
    assert wrong.returncode == 1 and "--signal: 'BOGUS' is not a signal" in wrong.stderr


def test_kill_between_two_runs(host: Deployment) -> None:
    host.run(sandbox("a", command=["false"]))
    eventually(lambda: host.info("a")["state"] == "crash-loop", 30)
    refused = sandlot(host, "kill", "-s", "USR1", "a")
    assert "a: the workload does not run now" in refused.stderr
    assert sandlot(host, "kill", "a").returncode == 0
    assert host.info("a")["state"] == "stopped"


def test_kill_of_a_workload_with_another_user(host: Deployment) -> None:
    """Init has no right to signal it (no capability KILL), but the host has."""
    switch = ["su", "-s", "/bin/sh", "nobody", "-c", "exec sleep 1000000"]
    host.run(sandbox("a", capabilities=["SETUID", "SETGID"], command=switch))

    def users() -> set[str]:
        init = host.pid("a")
        return {status_fields(pid)["Uid"].split()[0] for pid in [init, *children(init)]}

    eventually(lambda: len(users()) == 2)
    assert sandlot(host, "kill", "-s", "HUP", "a").returncode == 0
    eventually(lambda: host.info("a")["restarts"] == 1 and host.info("a")["state"] == "running")
    assert sandlot(host, "kill", "a").returncode == 0
    assert (host.info("a")["state"], host.info("a")["exit_code"]) == ("stopped", 137)


def test_wait_follows_a_sandbox_until_it_has_ended_for_good(host: Deployment, waiting: Any) -> None:
    count = "echo x >> /count; [ $(wc -l < /count) -lt 3 ] || exit 6; exit 4"
    limits = {"restart_policy": "on-failure", "restart_retries": 2}
    host.run(sandbox("a", command=["sh", "-c", count], **limits))
    assert sandlot(host, "wait", "a").stdout == "6\n"
    host.run(sandbox("b"), sandbox("off", state="stopped"))
    wait = waiting("b")
    # The launcher starts a killed init again.
    host.kill("b")
    eventually(lambda: host.info("b")["state"] == "running")
    assert wait.poll() is None
    assert sandlot(host, "rm", "-f", "b").returncode == 0
    out, err = wait.communicate(timeout=30)
    assert (wait.returncode, out) == (0, "143\n") or "was removed meanwhile" in err
    done = sandlot(host, "wait", "off")
    assert done.returncode == 1 and "off: has not been started" in done.stderr


def test_rm(host: Deployment) -> None:
    """What a sandbox wrote stays; removing a running one takes --force."""
    mounts = [{"type": "volume", "source": "data", "target": "/data"}]
    written = ["sh", "-c", "echo precious > /precious; exec sleep 1000000"]
    host.run(sandbox("a", command=written, mounts=mounts), sandbox("b"), sandbox("c"))
    eventually(lambda: sandlot(host, "exec", "a", "cat", "/precious").stdout == "precious\n")
    done = sandlot(host, "rm", "a", "b")
    assert done.returncode == 1 and "a, b: not removed, as they run" in done.stderr
    done = sandlot(host, "rm", "--force", "a", "b")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^a: set its layer aside as a snapshot, .* in 1 file$", done.stdout, re.M)
    assert re.search(r"^sandlot: what a wrote is kept as a snapshot; to get it back", done.stderr)
    (kept,) = store.load_all(host.paths).good
    assert (kept.sandbox, kept.reason) == ("a", "removed")
    assert [each["name"] for each in data(host, "list")] == ["c"]
    assert sandlot(host, "volumes").stdout.count("data") == 1
    sandlot(host, "stop", "c")
    removed = data(host, "rm", "c")
    assert removed["changed"] and "c: remove" in removed["actions"]
    gone = sandlot(host, "rm", "c")
    assert gone.returncode == 1 and "no sandbox is named 'c'" in gone.stderr


def test_stats(host: Deployment) -> None:
    busy = ["sh", "-c", "while :; do :; done"]
    host.run(
        sandbox("busy", command=busy, memory="64m", cpus="0.5"), sandbox("off", state="stopped"),
        sandbox("shared", network_mode="host", allow_host_network=True),
    )  # fmt: skip
    sandlot(host, "exec", "busy", "--", "nc", "-w", "1", f"{host.prefix}.0.1", "1")
    found = {each["name"]: each for each in data(host, "stats")}
    assert set(found) == {"busy", "shared"}
    entry = found["busy"]
    assert 20 < entry["cpu_percent"] < 70
    assert entry["memory_limit"] == 64 << 20 and 0 < entry["memory_percent"] < 100
    assert entry["network_sent"] > 0 and entry["pids"] >= 2
    assert found["shared"]["network_received"] is None
    shown = sandlot(host, "stats", "--no-stream", "shared", "off").stdout.splitlines()
    assert len(shown) == 3 and re.fullmatch(r"off +0\.00% +0B .* 0", shown[2])
    assert re.split(r"\s{2,}", shown[0]) == list(HEADS)
    with Terminal() as terminal:
        terminal.run(host, "stats", "busy")
        terminal.expect(b"PIDS")
        terminal.expect(b"\x1b[H")
        terminal.process.send_signal(2)
        assert terminal.finish() == 130
