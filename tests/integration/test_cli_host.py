# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The installed command on a deployed host: list, inspect, top, start, stop, restart, up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from converge_fixtures import Deployment, eventually, free_port, needs_root, sandbox
from sandboxes import children
from sandlot import converge
from sandlot.cli.verbs import VERBS, Verb
from sandlot.launcher.client import Launcher

pytestmark = needs_root


def sandlot(host: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command, with a Python that has pyroute2."""
    return subprocess.run(
        [sys.executable, "-I", host.paths.command, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "SANDLOT_ROOT": host.paths.root},
        check=False,
        timeout=120,
    )


def data(host: Deployment, *words: str) -> Any:
    done = sandlot(host, *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_list(host: Deployment) -> None:
    assert data(host, "list") == []
    assert sandlot(host, "list").stdout.split() == [
        *("NAME", "STATE", "IMAGE", "ADDRESS", "PORTS", "UPTIME", "MEMORY", "RESTARTS")
    ]
    port = free_port()
    host.run(
        sandbox("web", memory="64m", published_ports=[f"{port}:80"], labels={"role": "web"}),
        sandbox("done", command=["sh", "-c", "exit 3"], restart_policy="no", networks=[]),
        sandbox("off", state="stopped"),
    )
    address = host.info("web")["addresses"][0]
    eventually(lambda: host.info("done")["state"] == "exited")
    found = {each["name"]: each for each in data(host, "list")}
    assert found["web"]["addresses"] == [address]
    assert found["web"]["memory"] > 0
    assert (found["web"]["labels"], found["off"]["labels"]) == ({"role": "web"}, {})
    rows = {line.split()[0]: line.split() for line in sandlot(host, "list").stdout.splitlines()}
    assert rows["web"][1:5] == ["running", "busybox", address, f"{port}:80"]
    assert rows["web"][7] == "0"
    assert sandlot(host, "completion", "--names").stdout.split() == ["done", "off", "web"]
    assert sandlot(host, "completion", "--images").stdout == "busybox\n"
    assert rows["off"][1] == "created"
    assert rows["done"][1] == "exited(3)"
    assert max(map(len, sandlot(host, "list").stdout.splitlines())) <= 80


def test_list_agrees_with_info(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b", state="stopped"))
    sandlot(host, "stop", "a")
    host.run(sandbox("c", restart_policy="no", command=["false"]))
    eventually(lambda: host.info("c")["pid"] is None)
    info = {each["name"]: each for each in converge.info(host.paths)}
    for each in data(host, "list"):
        same = set(each) - {"memory", "uptime"}
        assert {key: info[each["name"]][key] for key in same} == {key: each[key] for key in same}


def test_a_corrupt_record_does_not_hide_the_others(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    record = Path(host.paths.sandbox("b").record)
    whole = record.read_bytes()
    record.write_bytes(whole[:100])
    try:
        done = sandlot(host, "list")
        assert done.returncode == 1
        states = [line.split()[:2] for line in done.stdout.splitlines()[1:]]
        assert states == [["a", "running"], ["b", "broken"]]
        assert f"sandlot: b: {record} is not valid JSON" in done.stderr
        assert sandlot(host, "inspect", "b").returncode == 1
        assert sandlot(host, "stop", "b").returncode == 1
        assert sandlot(host, "exec", "b", "true").returncode == 0
    finally:
        record.write_bytes(whole)


def test_an_answer_that_can_not_be_written(host: Deployment) -> None:
    done = subprocess.run(
        [sys.executable, "-I", host.paths.command, "list"],
        stdout=open("/dev/full", "w"),
        stderr=subprocess.PIPE,
        env={**os.environ, "SANDLOT_ROOT": host.paths.root},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"sandlot: the output can't be written: No space left on device\n"


def test_inspect(host: Deployment) -> None:
    host.converged(sandbox("a", memory="64m", labels={"x": "y"}), sandbox("b"))
    (found,) = data(host, "inspect", "a")
    assert found["spec"]["memory"] == 64 << 20
    assert found["pid"] == host.pid("a")
    assert [each["name"] for each in data(host, "inspect", "b", "a", "b")] == ["b", "a"]
    text = sandlot(host, "inspect", "a").stdout
    assert "name: a\n" in text and "labels:\n  x: y\n" in text
    missing = sandlot(host, "inspect", "a", "c")
    assert missing.returncode == 1
    assert missing.stderr == "sandlot: no sandbox is named 'c'\nhint: known: a, b\n"


def test_values_of_env_are_shown_on_demand_only(host: Deployment) -> None:
    first = host.converged(sandbox("a", env={"PASSWORD": "hunter2", "SAME": "x"}))
    after = sandbox("a", env={"PASSWORD": "hunter3", "SAME": "x"})
    checked, done = host.run(after, check=True), host.run(after)
    assert checked.diff == done.diff and done.actions[0] == "a: env changed (restart)"
    (before, now) = (done.diff[side]["a"]["env (restart)"] for side in ("before", "after"))  # type: ignore[call-overload]
    assert before["PASSWORD"] != now["PASSWORD"] and before["SAME"] == now["SAME"]
    results = [repr(each) for each in (first, checked, done, host.info("a"))]
    for words in (["inspect", "a"], ["explain", "a"], ["list"]):
        results += [sandlot(host, *words).stdout, sandlot(host, *words, "--format", "json").stdout]
    assert not [text for text in results if "hunter" in text]
    script = sandlot(host, "explain", "a").stdout
    refused = subprocess.run(
        ["bash", "-s", "/nonexistent"], input=script, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "values of env are hidden; sandlot explain --show-env a prints them" in refused.stderr
    for words in (["inspect", "a"], ["explain", "a"]):
        assert "hunter3" in sandlot(host, *words, "--show-env").stdout
    state = host.paths.sandbox("a")
    for path in (state.record, state.launch, host.paths.mask):
        assert os.stat(path).st_mode & 0o077 == 0


def test_top(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b", state="stopped"))
    # The supervisor of the start counts until it has nothing to do.
    eventually(lambda: len(children(host.pid("a"))) == 1)
    (found,) = data(host, "top")
    assert found["name"] == "a" and found["pids"] == 2 and found["memory"] > 0
    assert sandlot(host, "top", "a").stdout.splitlines()[1].split()[:2] == ["a", "2"]


def test_stop_start_and_restart(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    first, other = host.pid("a"), host.pid("b")
    assert sandlot(host, "stop", "a").stdout == ""
    assert host.info("a")["state"] == "stopped"
    assert sandlot(host, "stop", "a").returncode == 0
    assert sandlot(host, "start", "a").returncode == 0
    second = host.pid("a")
    assert sandlot(host, "restart", "a").returncode == 0
    assert len({first, second, host.pid("a")}) == 3
    assert host.pid("b") == other
    (answer,) = data(host, "restart", "a")
    assert (answer["name"], answer["changed"]) == ("a", True)
    assert answer["actions"] == ["a: restart: asked (restart)"]
    assert data(host, "start", "a")[0]["actions"] == []
    done = sandlot(host, "start", "a", "nobody")
    assert done.returncode == 1 and "no sandbox is named 'nobody'" in done.stderr


def test_stopped_stays_stopped_and_started_comes_back(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    sandlot(host, "stop", "a")
    host.reboot()
    assert host.info("b")["state"] == "down"
    done = sandlot(host, "up")
    assert (done.returncode, done.stderr) == (0, "")
    assert host.info("a")["state"] != "running"
    assert host.info("b")["state"] == "running"


def test_launcher_in_the_foreground(host: Deployment) -> None:
    launcher = Launcher(host.paths)
    launcher.quit()
    process = subprocess.Popen(
        [sys.executable, "-I", host.paths.command, "launcher"],
        env={**os.environ, "SANDLOT_ROOT": host.paths.root},
    )
    try:
        launcher._await()
        answer = launcher.ping()
        assert answer is not None and answer["pid"] == process.pid
    finally:
        launcher.quit()
        process.wait(20)


ARGUMENTS = {
    "exec": ["--", "true"],
    "cp": ["a:/x", "/x"],
    "run": ["--image", "a", "--", "true"],
    "completion": ["--names"],
}


def test_only_root(host: Deployment) -> None:
    """Each verb says so in a line to a user who has no rights but to read what is installed."""
    os.chmod(host.paths.root, 0o755)
    try:
        answers = {verb.name: as_nobody(host, verb) for verb in VERBS}
    finally:
        os.chmod(host.paths.root, 0o700)
    manual = answers.pop("manual")
    assert manual.returncode == 0 and manual.stdout.startswith(".") and not manual.stderr
    told = {name: (done.returncode, done.stdout, done.stderr) for name, done in answers.items()}
    message = "sandlot: only root can manage sandboxes\nhint: use sudo\n"
    assert told == {
        verb.name: (125 if verb.runs else 1, "", message) for verb in VERBS if verb.name in answers
    }


def as_nobody(host: Deployment, verb: Verb) -> subprocess.CompletedProcess[str]:
    needed = [row for row in verb.arguments if row.settings.get("nargs") != "*"]
    words = ["a" for row in needed if row.names == ("name",)]
    return subprocess.run(
        [host.paths.command, verb.name, *words, *ARGUMENTS.get(verb.name, ())],
        capture_output=True,
        text=True,
        env={"SANDLOT_ROOT": host.paths.root},
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        check=False,
    )
