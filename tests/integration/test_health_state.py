# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Option healthcheck, state healthy, and what is told of how a workload ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox
from sandlot.cli.main import main
from sandlot.sandbox import runtime

pytestmark = needs_root

FAST = {"interval": "200ms", "timeout": "5s", "retries": 2}
GOOD = {"test": "echo fine", **FAST}
BAD = {"test": "echo broken; false", **FAST}


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


@pytest.fixture(autouse=True)
def _empty(host: Deployment) -> Iterator[None]:
    yield
    host.run(purge=True)


def box(name: str, **options: Any) -> dict[str, Any]:
    return sandbox(name, networks=[], stop_timeout=1, **options)


def health(host: Deployment, name: str) -> str | None:
    found: str | None = host.info(name)["health"]
    return found


def test_healthy_is_waited_for_and_is_no_change(host: Deployment) -> None:
    server = {"command": ["httpd", "-f", "-p", "80"], "healthcheck": {"tcp": 80, **FAST}}
    specs = [box("web", state="healthy", **server), box("plain", state="healthy")]
    host.converged(*specs)
    assert (health(host, "web"), health(host, "plain")) == ("healthy", None)
    assert host.info("plain")["state"] == "running"


def test_failure_has_the_last_output_and_concerns_its_sandbox_only(host: Deployment) -> None:
    specs = [
        box("bad", state="healthy", healthcheck=BAD),
        box("ends", state="healthy", command=["sh", "-c", "echo bye; exit 3"], restart_policy="no"),
        box(
            "late",
            state="healthy",
            healthcheck={**GOOD, "test": "sleep 60"},
            healthy_wait_timeout=1,
        ),
        box("good", state="healthy", healthcheck=GOOD),
    ]
    result = host.run(*specs)
    assert set(result.failed) == {"bad", "ends", "late"}
    assert "unhealthy after 2 failed checks; its healthcheck said: broken" in result.failed["bad"]
    assert "ended with exit code 3" in result.failed["ends"] and "bye" in result.failed["ends"]
    assert "not healthy in time: it is running, its health is starting" in result.failed["late"]
    assert result.sandboxes["bad"]["failed"] == result.failed["bad"]
    # What is unhealthy gets one more check; the cure is live.
    assert "broken" in host.run(specs[0]).failed["bad"]
    pid = host.pid("bad")
    host.converged(box("bad", state="healthy", healthcheck=GOOD))
    assert host.pid("bad") == pid


def test_from_started_to_healthy_nothing_restarts(host: Deployment) -> None:
    host.converged(box("a", healthcheck=GOOD))
    pid = host.pid("a")
    again = host.run(box("a", state="healthy", healthcheck=GOOD))
    assert (again.changed, again.failed, host.pid("a")) == (False, {}, pid)
    checked = host.run(box("b", state="healthy"), check=True)
    assert checked.actions[-1] == "b: start"


def test_set_changed_removed_is_live(host: Deployment) -> None:
    host.converged(box("a"))
    pid = host.pid("a")
    steps = [
        (GOOD, "healthy"),
        (BAD, "unhealthy"),
        ({"tcp": 81, **FAST}, "unhealthy"),
        (None, None),
    ]
    for option, wanted in steps:
        result = host.converged(box("a", **({"healthcheck": option} if option else {})))
        assert len(result.actions) == 1
        assert "a: healthcheck" in result.actions[0]
        eventually(lambda w=wanted: health(host, "a") == w)
    assert host.pid("a") == pid
    assert runtime.status(host.paths.sandbox("a"))["restarts"] == 0


def test_crash_loop_is_told(
    host: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDLOT_ROOT", host.paths.root)
    host.run(box("loop", command=["sh", "-c", "printf 'a\\033[2Jb\\n'; kill -9 $$"]))
    eventually(lambda: host.info("loop")["state"] == "crash-loop")
    found = host.info("loop")
    assert (found["exit_code"], found["signal"]) == (137, 9)
    assert found["restarts"] >= 4
    assert found["last_log"] == ["a\\x1b[2Jb"] * 5
    assert main(["list"]) == 0
    assert "crash-loop(137, SIGKILL)" in capsys.readouterr().out
    assert main(["list", "--format", "json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["state"], listed["signal"], listed["health"]) == ("crash-loop", 9, None)


def test_inspect_and_list_show_health(
    host: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDLOT_ROOT", host.paths.root)
    host.run(box("a", healthcheck=BAD))
    eventually(lambda: health(host, "a") == "unhealthy")
    assert main(["list"]) == 0
    assert "running(unhealthy)" in capsys.readouterr().out
    assert main(["inspect", "a"]) == 0
    shown = capsys.readouterr().out
    for line in ("health: unhealthy", "health_output: broken", "oom_kills: 0", "signal: -"):
        assert f"\n{line}\n" in shown


def test_kills_for_memory_are_counted_over_boots(host: Deployment) -> None:
    eater = "[ -e /root/done ] || { touch /root/done; exec tail /dev/zero; }; sleep 100000"
    spec = box("eater", command=["sh", "-c", eater], memory="16m")
    host.run(spec)
    eventually(lambda: host.info("eater")["oom_kills"] == 1)
    eventually(lambda: host.info("eater")["exit_code"] == 137)
    assert host.info("eater")["signal"] == 9
    host.reboot()
    assert host.info("eater")["oom_kills"] == 1
    host.run(spec)
    assert host.info("eater")["oom_kills"] == 1
