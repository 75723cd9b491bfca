# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Healthchecks by init, crash loops and how a workload ended, in real sandboxes."""

from __future__ import annotations

import os
import select
import time
from typing import Any

import pytest
from sandboxes import Host, Sandbox, status_or_empty, switches, until
from sandlot.sandbox import health, live
from sandlot.sandbox.last_words import last_output
from sandlot.spec import confinement

SLEEP = ["sleep", "100000"]
# A web server that is there while /up is.
SERVER = "mkdir /www; while :; do [ -e /up ] && httpd -f -p 80 -h /www; sleep 0.05; done"
AGAIN = {"policy": "unless-stopped", "retries": 0}


def check(**changes: Any) -> dict[str, Any]:
    """As the launch file has it; every second result of these tests is a failure."""
    times = {"interval": 0.2, "timeout": 5.0, "retries": 2, "start_period": 0.0}
    return {**times, "action": "none", **changes}


def shell(script: str, **changes: Any) -> dict[str, Any]:
    return check(argv=["sh", "-c", script], **changes)


def becomes(box: Sandbox, wanted: str) -> dict[str, Any]:
    box.until(lambda: box.status().get("health") == wanted)
    return box.status()


def awaited(box: Sandbox, seconds: float = 15.0) -> str:
    """ "" once it is healthy, else why it is not."""
    failures = health.wait_each(box.host.paths, {box.name: time.monotonic() + seconds})
    return str(failures.get(box.name, ""))


HTTP = "GET /ok HTTP/1.0\r\nHost: localhost\r\n\r\n"
KINDS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # The check, what makes it succeed, what makes it fail, and what it says then.
    "exec": (shell("cat /up"), "echo fine > /up", "rm /up", "No such file"),
    "tcp": (
        check(address="127.0.0.1", port=80),
        "touch /up",
        "rm /up; killall httpd",
        "Connection refused",
    ),
    "http": (
        check(address="127.0.0.1", port=80, request=HTTP),
        "touch /up; echo fine > /www/ok",
        "rm /www/ok",
        "404 Not Found",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_unhealthy_healthy(sandbox_host: Host, kind: str) -> None:
    healthcheck, works, fails, says = KINDS[kind]
    box = sandbox_host.started("a", ["sh", "-c", SERVER], healthcheck=healthcheck)
    workload = box.workload
    assert box.status()["health"] == "starting"
    box.shell(works)
    assert awaited(box) == ""
    box.shell(fails)
    assert becomes(box, "unhealthy")["failing_streak"] >= 2
    assert says in last_output(box.paths)
    assert says in awaited(box)
    box.shell(works)
    assert becomes(box, "healthy")["failing_streak"] == 0
    assert box.workload == workload
    assert box.status()["restarts"] == 0


def test_over_ipv6(sandbox_host: Host) -> None:
    healthcheck = check(address="::1", port=80)
    box = sandbox_host.started("a", ["httpd", "-f", "-p", "[::1]:80"], healthcheck=healthcheck)
    assert awaited(box) == ""


def test_failures_in_the_start_period_do_not_count(sandbox_host: Host) -> None:
    healthcheck = shell("echo x >> /tries; false", start_period=60.0)
    box = sandbox_host.started("a", SLEEP, healthcheck=healthcheck)
    # More than it would take without one, as the pauses grow to the interval.
    box.until(lambda: len(box.shell("cat /tries").stdout) >= 12)
    assert (box.status()["health"], box.status()["failing_streak"]) == ("starting", 0)


def test_a_check_is_confined_as_the_workload_is(sandbox_host: Host) -> None:
    script = "id -u; echo $SECRET; pwd; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; false"
    box = sandbox_host.sandbox(
        "a", ["sh", "-c", f"({script}) > /tmp/own; sleep 100000"], healthcheck=shell(script)
    )
    box.write(user="33:33", cwd="/var", env={"PATH": "/bin", "SECRET": "s"}, tmpfs={"/tmp": ""})
    box.create()
    box.start()
    becomes(box, "unhealthy")
    own = box.shell("cat /tmp/own").stdout.decode().strip()
    assert own.startswith("33\ns\n/var\nCapInh:\t0000000000000000")
    assert last_output(box.paths).replace("\\t", "\t") == own


def test_a_check_that_hangs_is_killed_with_its_group(sandbox_host: Host) -> None:
    hangs = "echo stuck; sleep 1000 & sleep 1000"
    box = sandbox_host.started("a", SLEEP, healthcheck=shell(hangs, timeout=0.3))
    box.until(lambda: len(box.pids()) > 3)
    becomes(box, "unhealthy")
    assert last_output(box.paths) == "stuck\nno result within 0.3 s"
    live.configure(box.paths, {**box.config, "healthcheck": None})
    # A zombie would be found as well: only init and the workload are left.
    box.until(lambda: len(box.pids()) == 2)


def test_a_check_that_can_not_be_killed_is_not_joined_by_more(sandbox_host: Host) -> None:
    mask = confinement.mask(["SETUID", "SETGID"])
    healthcheck = check(argv=["su", "web", "-c", "sleep 1000"], timeout=0.3)
    box = sandbox_host.started("a", SLEEP, healthcheck=healthcheck, capabilities=mask)
    box.until(lambda: box.status()["failing_streak"] >= 3)
    assert last_output(box.paths) == "the last check still runs, though it was killed"
    sleepers = [p for p in box.pids() if status_or_empty(p).get("Name") == "sleep"]
    assert len(sleepers) == 2


def test_output_is_bounded_and_harmless(sandbox_host: Host) -> None:
    flood = "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\033[2Jend'; false"
    box = sandbox_host.started("a", SLEEP, healthcheck=shell(flood))
    becomes(box, "unhealthy")
    assert os.path.getsize(box.paths.health) == 4096
    output = last_output(box.paths)
    assert len(output) < 4200
    assert output.endswith("xxx\\x1b[2Jend")


@pytest.mark.parametrize("argv", [["no-such-command"], ["/etc/passwd"]])
def test_a_check_that_can_not_be_run_fails_with_the_reason(
    sandbox_host: Host, argv: list[str]
) -> None:
    box = sandbox_host.started("a", SLEEP, healthcheck=check(argv=argv))
    becomes(box, "unhealthy")
    assert argv[0] in last_output(box.paths)


def test_unhealthy_workload_is_stopped_and_started_again(sandbox_host: Host) -> None:
    script = "trap 'echo told; exit 0' TERM; echo run; while :; do sleep 0.1; done"
    healthcheck = shell("test -e /up", action="restart")
    box = sandbox_host.started("a", ["sh", "-c", script], healthcheck=healthcheck)
    init = box.init
    box.until(lambda: box.log().count("run") == 2)
    assert box.log()[:3] == ["run", "sandlot: unhealthy after 2 failed checks", "told"]
    # Positive control: what is healthy is left alone.
    box.shell("touch /up")
    becomes(box, "healthy")
    assert (box.init, box.state()) == (init, "running")
    assert box.status()["restarts"] == box.log().count("run") - 1


def test_unhealthy_runs_become_a_crash_loop(sandbox_host: Host) -> None:
    """Also one after the other that ignores the stop signal, and is killed."""
    healthcheck = shell("false", action="restart", interval=0.1, retries=1)
    script = "trap '' TERM; echo run; while :; do sleep 0.1; done"
    box = sandbox_host.started(
        "a", ["sh", "-c", script], healthcheck=healthcheck, stop={"signal": 15, "timeout": 0.1}
    )
    box.until(lambda: box.state() == "crash-loop")
    assert box.status()["restarts"] >= 4
    assert box.status()["signal"] == 9
    assert "keeps ending" in awaited(box)


def test_crash_loop_is_shown_and_tried_again(sandbox_host: Host) -> None:
    script = "echo run; exit 3"
    box = sandbox_host.started("a", ["sh", "-c", script], restart=AGAIN, healthcheck=shell("false"))
    box.until(lambda: box.state() == "backoff")
    # Waiting for it ends when the loop is known to be one.
    problem = awaited(box)
    assert "keeps ending soon after its start with exit code 3" in problem
    assert "its log ends with: run | run" in problem
    restarts = box.status()["restarts"]
    box.until(lambda: box.status()["restarts"] > restarts)
    assert box.state() == "crash-loop"


@pytest.mark.parametrize(("script", "number"), [("kill -9 $$", 9), ("exit 137", None)])
def test_signal_is_told_from_an_exit_code(
    sandbox_host: Host, script: str, number: int | None
) -> None:
    box = sandbox_host.started("a", ["sh", "-c", script])
    status = box.until_final()
    assert (status["exit_code"], status.get("signal")) == (137, number)


def test_waiting_notices_an_end(sandbox_host: Host) -> None:
    box = sandbox_host.started(
        "a", ["sh", "-c", "sleep 0.2; echo bye; exit 4"], healthcheck=shell("false")
    )
    assert "has ended with exit code 4; its log ends with: bye" in awaited(box)
    assert "does not run" in awaited(sandbox_host.sandbox("never", SLEEP))


def test_set_changed_removed_live(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    workload = box.workload

    def configured(healthcheck: dict[str, Any] | None) -> None:
        live.configure(box.paths, {**box.config, "healthcheck": healthcheck})

    assert "health" not in box.status()
    configured(shell("echo one"))
    assert box.status()["health"] == "starting"
    assert becomes(box, "healthy")["failing_streak"] == 0
    assert last_output(box.paths) == "one"
    configured(shell("echo one"))
    assert box.status()["health"] == "healthy"
    configured(shell("echo two; false"))
    assert box.status()["health"] == "starting"
    becomes(box, "unhealthy")
    assert last_output(box.paths) == "two"
    configured(None)
    assert "health" not in box.status()
    assert last_output(box.paths) == ""
    assert box.workload == workload
    _never_wakes(box)


def _never_wakes(box: Sandbox) -> None:
    """Other than by the timer of a check."""
    init = box.init
    pidfd = os.pidfd_open(init)

    def quiet() -> bool:
        before = switches(init)
        assert not select.select([pidfd], [], [], 1.0)[0]
        return before == switches(init)

    try:
        until(quiet, what="no context switch of init for a second")
    finally:
        os.close(pidfd)


def test_stop_while_a_check_runs(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, healthcheck=shell("sleep 1000", timeout=100.0))
    box.until(lambda: len(box.pids()) == 3)
    box.stop()
    assert box.running() is None
    assert box.status()["final"]
    assert "health" not in box.status()
