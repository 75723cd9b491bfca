# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""depends_on: the order of starts and stops, who fails with whom, and what is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, TextIO

import pytest
from converge_fixtures import IDLE, Deployment, eventually, needs_root, sandbox, tree
from sandlot import converge
from sandlot.errors import SpecError
from sandlot.sandbox import runtime

pytestmark = needs_root

# Its end takes a while, so that one who was asked only then shows in the log.
TRAP = "trap 'echo asked; sleep 0.2; echo gone; exit' TERM"
TALKING = ["sh", "-c", f"{TRAP}; echo ready; while :; do sleep 1000 & wait; done"]
NAMES = ("proxy", "web", "db", "cache")


def chain() -> list[dict[str, Any]]:
    """In the wrong order, on purpose."""
    return [
        sandbox("proxy", command=TALKING, depends_on=["web"]),
        sandbox("web", command=TALKING, depends_on=["db", {"name": "cache"}]),
        sandbox("db", command=TALKING),
        sandbox("cache", command=TALKING),
    ]


def since(host: Deployment) -> dict[str, float]:
    """When each workload was started."""
    return {name: runtime.status(host.paths.sandbox(name))["since"] for name in NAMES}


def started_in_order(host: Deployment) -> bool:
    at = since(host)
    return max(at["db"], at["cache"]) < at["web"] < at["proxy"]


def logs(host: Deployment) -> dict[str, list[TextIO]]:
    """Open, so that they can be read when they are removed."""
    found: dict[str, list[TextIO]] = {}
    for name in NAMES:
        paths = filter(os.path.exists, host.paths.sandbox(name).logs)
        found[name] = [open(path, encoding="utf-8") for path in paths]
    return found


def last(files: list[TextIO], word: str) -> str:
    """The stamp of the last line with that word, "" when there is none."""
    lines = []
    for file in files:
        file.seek(0)
        lines += [line.rstrip("\n").split(" ", 3) for line in file]
    return max((fields[0] for fields in lines if fields[3] == word), default="")


def ready(host: Deployment) -> None:
    """Until all have said so, after whatever they said before."""
    eventually(lambda: all(last(x, "ready") > last(x, "gone") for x in logs(host).values()))


def stopped_in_order(found: dict[str, list[TextIO]]) -> bool:
    """Nobody was asked to end before those had ended that depend on it."""
    ends = [("proxy", "web"), ("web", "db"), ("web", "cache")]
    return all("" < last(found[a], "gone") < last(found[b], "asked") for a, b in ends)


def test_starts_and_stops_are_in_order(host: Deployment) -> None:
    foretold = host.run(*chain(), check=True).actions
    result = host.converged(*chain())
    assert result.actions == foretold
    starts = [line for line in result.actions if line.endswith(": start")]
    assert starts == ["db: start", "cache: start", "web: start", "proxy: start"]
    assert started_in_order(host)
    ready(host)
    assert converge.down(host.paths) == {}
    assert stopped_in_order(logs(host))
    assert not converge.up(host.paths).failed
    assert started_in_order(host)
    ready(host)
    result = converge.lifecycle(host.paths, ["db", "web", "proxy", "cache"], "restart")
    assert not result.failed
    assert stopped_in_order(logs(host)) and started_in_order(host)
    ready(host)
    assert not converge.lifecycle(host.paths, ["cache", "db", "web", "proxy"], "stop").failed
    assert stopped_in_order(logs(host))


def test_a_boot_starts_in_order(host: Deployment) -> None:
    host.converged(*chain())
    host.reboot()
    assert not converge.up(host.paths).failed
    assert started_in_order(host)


def test_rebuilds_are_in_order(host: Deployment) -> None:
    host.converged(*chain())
    ready(host)
    assert not host.run(*chain(), recreate=True).failed
    assert stopped_in_order(logs(host)) and started_in_order(host)


def test_removal_is_in_order(host: Deployment) -> None:
    host.converged(*chain())
    ready(host)
    found = logs(host)
    assert not host.run(purge=True).failed
    assert stopped_in_order(found)


def test_who_depends_on_a_failure_fails_with_it(host: Deployment) -> None:
    specs = chain()
    specs[2]["command"] = ["/nowhere"]
    specs.append(sandbox("other"))
    failed = host.run(*specs).failed
    assert set(failed) == {"db", "web", "proxy"}
    assert "web: not started, as it depends on db, which failed:" in failed["web"]
    assert "/nowhere" in failed["web"]
    assert "as it depends on web, which is not started either" in failed["proxy"]
    states = {entry["name"]: entry["state"] for entry in converge.info(host.paths)}
    assert (states["cache"], states["other"]) == ("running", "running")
    assert runtime.running(host.paths.sandbox("web")) is None
    specs[2]["command"] = TALKING
    host.converged(*specs)
    assert started_in_order(host)


def test_health_is_waited_for(host: Deployment) -> None:
    """Until a file is there; only who asks for health waits for it."""
    check = {"test": ["CMD", "test", "-e", "/tmp/well"], "interval": "200ms", "retries": 2}
    db = sandbox("db", command=TALKING, healthcheck=check)
    web = sandbox("web", depends_on=[{"name": "db", "condition": "healthy"}])
    lax = sandbox("lax", depends_on=["db"])
    failed = host.run(web, db, lax).failed
    assert set(failed) == {"web"}
    assert "as it depends on db, which is not healthy: db is unhealthy" in failed["web"]
    assert (
        runtime.running(host.paths.sandbox("lax"))
        and runtime.running(host.paths.sandbox("web")) is None
    )
    db["command"] = ["sh", "-c", f"sleep 0.3; echo > /tmp/well; {TALKING[2]}"]
    before = time.time()
    host.converged(web, db, lax)
    assert runtime.status(host.paths.sandbox("db"))["health"] == "healthy"
    assert runtime.status(host.paths.sandbox("web"))["since"] - before > 0.3
    host.reboot()
    assert not converge.up(host.paths).failed
    assert runtime.status(host.paths.sandbox("db"))["health"] == "healthy"


def test_jobs(host: Deployment) -> None:
    """Done once; its dependents wait for its end, and fail with it."""
    script = "sleep 0.2; echo run >>/log; test -e /well || exit 3"
    job = sandbox("job", command=["sh", "-c", script], restart_policy="no")
    web = sandbox("web", depends_on=[{"name": "job", "condition": "completed"}])
    failed = host.run(web, job).failed
    assert "on job, which has not done its job: job has ended with exit code 3" in failed["web"]
    assert set(failed) == {"web"}
    job["command"][2] = script.replace("exit 3", "true")
    before = time.time()
    host.converged(web, job)
    assert runtime.status(host.paths.sandbox("web"))["since"] - before > 0.2
    assert host.info("job")["state"] == "exited" and runs(host) == 2
    host.converged({**web, "env": {"A": "1"}})
    host.converged(web, {**job, "memory": "64m"})
    assert runs(host) == 2
    assert not converge.lifecycle(host.paths, ["job"], "start").failed
    eventually(lambda: runs(host) == 3)
    host.converged(web, job)
    host.reboot()
    assert not converge.up(host.paths).failed
    assert runs(host) == 4 and runtime.running(host.paths.sandbox("web"))
    assert converge.up(host.paths).actions == []


def runs(host: Deployment) -> int:
    return len(Path(host.paths.sandbox("job").upper, "log").read_text().split())


def test_after_a_boot_one_fails_for_itself(host: Deployment) -> None:
    host.converged(*chain(), sandbox("other"))
    assert not converge.lifecycle(host.paths, ["db"], "stop").failed
    assert runtime.running(host.paths.sandbox("web")), (
        "stopping what is depended on stops nothing else"
    )
    host.reboot()
    failed = converge.up(host.paths).failed
    assert set(failed) == {"web", "proxy"}
    assert "as it depends on db, which does not run" in failed["web"]
    assert runtime.running(host.paths.sandbox("other")) and runtime.running(
        host.paths.sandbox("cache")
    )
    assert not converge.lifecycle(host.paths, ["proxy", "web", "db"], "start").failed
    assert started_in_order(host)


def test_it_is_set_changed_and_removed_without_a_restart(host: Deployment) -> None:
    host.converged(sandbox("web"), sandbox("db"))
    pids = host.pid("web"), host.pid("db")
    healthy = {"name": "db", "condition": "healthy"}
    steps: list[tuple[list[Any], str]] = [
        (["db"], 'web: depends_on [] -> ["db"]'),
        ([healthy], 'web: depends_on ["db"] -> [{"name": "db", "condition": "healthy"}]'),
        ([], 'web: depends_on [{"name": "db", "condition": "healthy"}] -> []'),
    ]
    for value, line in steps:
        web = sandbox("web", depends_on=value)
        foretold = host.run(web, check=True)
        result = host.converged(web, sandbox("db"))
        assert result.actions == foretold.actions == [line]
        assert result.diff["after"]["web"] == {"depends_on (live)": value}
        assert host.info("web")["spec"]["depends_on"] == value
    assert pids == (host.pid("web"), host.pid("db"))


def test_a_restart_of_a_dependency_restarts_nothing_else(host: Deployment) -> None:
    web = sandbox("web", depends_on=["db"])
    host.converged(web, sandbox("db"))
    before = host.pid("web"), host.pid("db")
    host.converged(sandbox("db", env={"A": "1"}))
    assert host.pid("web") == before[0] and host.pid("db") != before[1]


def refused(host: Deployment, says: str, *specs: dict[str, Any], **options: Any) -> None:
    """Also by a check, and without a change."""
    before = tree(host.paths.state)
    for check in (True, False):
        with pytest.raises(SpecError, match=says):
            host.run(*specs, check=check, **options)
    assert tree(host.paths.state) == before


def test_refusals_change_nothing(host: Deployment) -> None:
    web, db = sandbox("web", depends_on=["db"]), sandbox("db")
    refused(host, "'db' of sandbox web names no sandbox of this host", web)
    refused(host, "db -> web -> db", web, sandbox("db", depends_on=["web"]))
    refused(host, "'db' of sandbox web is not to run", web, {**db, "state": "stopped"})
    host.converged(web, db)
    removal = {"name": "db", "state": "absent"}
    refused(host, "'db' can't be removed: sandbox web depends on it", removal)
    refused(host, "'db' can't be removed: sandbox web depends on it", removal, web)
    refused(host, "'db' can't be removed: sandbox web depends on it", web, purge=True)
    refused(host, "closes a cycle: db -> web -> db", sandbox("db", depends_on=["web"]))
    host.converged(sandbox("web"), removal)
    host.converged(web, db)
    assert not converge.lifecycle(host.paths, ["db"], "stop").failed
    refused(host, "start it as well", {**web, "command": [*IDLE, "1"]})
    host.converged(web)
    assert not host.run({"name": "web", "state": "absent"}, removal).failed
