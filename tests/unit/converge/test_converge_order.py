# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Levels, cycles, and what of depends_on is refused before any change."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

import pytest
from sandlot.converge import dependencies
from sandlot.converge.decide import Decision, Desired, Observed
from sandlot.errors import LaunchError, SpecError
from sandlot.idmap import IdRange
from sandlot.launcher.client import Launcher
from sandlot.plan import Failures
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise

LEVELS: list[tuple[dict[str, Sequence[str]], list[list[str]]]] = [
    ({}, []),
    ({"b": [], "a": []}, [["b", "a"]]),
    ({"web": ["db"], "db": []}, [["db"], ["web"]]),
    ({"a": ["b"], "b": ["c"], "c": []}, [["c"], ["b"], ["a"]]),
    (
        {"top": ["l", "r"], "l": ["base"], "r": ["base"], "base": []},
        [["base"], ["l", "r"], ["top"]],
    ),
    ({"far": ["near", "base"], "near": ["base"], "base": []}, [["base"], ["near"], ["far"]]),
    ({"a": ["elsewhere"], "b": ["a"]}, [["a"], ["b"]]),
    ({"a": ["b"], "b": ["a"], "c": []}, [["c"], ["a", "b"]]),
    ({"a": ["a"], "b": []}, [["b"], ["a"]]),
    ({"behind": ["a"], "a": ["b"], "b": ["a"]}, [["behind", "a", "b"]]),
]
CYCLES: list[tuple[dict[str, Sequence[str]], list[str]]] = [
    ({}, []),
    ({"a": ["b"], "b": ["c", "elsewhere"], "c": []}, []),
    ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
    ({"a": ["a"]}, ["a", "a"]),
    ({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}, ["a", "b", "c", "a"]),
    ({"before": ["x"], "x": ["y", "leaf"], "y": ["x"], "leaf": []}, ["x", "y", "x"]),
]


@pytest.mark.parametrize(("graph", "expected"), LEVELS, ids=str)
def test_levels(graph: dict[str, Sequence[str]], expected: list[list[str]]) -> None:
    assert dependencies.levels(graph) == expected


@pytest.mark.parametrize(("graph", "expected"), CYCLES, ids=str)
def test_cycle(graph: dict[str, Sequence[str]], expected: list[str]) -> None:
    assert dependencies.cycle(graph) == expected


def test_long_chains_and_rings() -> None:
    chain = {f"n{i}": [f"n{i + 1}"] for i in range(1999)}
    assert len(dependencies.levels(chain)) == 1999
    ring = {**chain, "n1999": ["n0"]}
    assert len(dependencies.cycle(ring)) == 2001
    assert set(dependencies.reachable(ring, ["n7"])) == set(ring)


def record(name: str, needs: Sequence[Any] = (), **options: Any) -> Record:
    spec = normalise({"name": name, "image": "busybox", "depends_on": list(needs), **options})
    return Record(name, PRESENT, "started", spec, IdRange(200000), ImageRef("busybox", "sha"))


JOB = [{"name": "job", "condition": "completed"}]


def known(graph: Mapping[str, Sequence[Any]]) -> dict[str, Record]:
    return {name: record(name, needs) for name, needs in graph.items()}


def check(
    graph: Mapping[str, Sequence[Any]],
    *,
    asked: Sequence[str] = (),
    stored: Sequence[str] = (),
    removed: Sequence[str] = (),
    begun: Sequence[str] = (),
    broken: Sequence[str] = (),
) -> None:
    everyone = known(graph)
    wishes = {name: Desired(name, "started", everyone[name].spec) for name in asked}
    wishes.update({n: Desired(n, "started", everyone[n].spec, keep_image=True) for n in stored})
    dependencies.check(wishes, everyone, [*removed, *begun], removed, broken)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"graph": {"web": ["db"]}, "asked": ["web"]}, "names no sandbox of this host"),
    ({"graph": {"web": ["db"], "x": []}, "asked": ["web"]}, "there are: x"),
    ({"graph": {"web": ["db"]}, "asked": ["web"], "removed": ["db"]}, "remove web as well"),
    ({"graph": {"web": ["db"]}, "asked": ["web"], "begun": ["db"]}, "web depends on it"),
    ({"graph": {"web": ["db"]}, "removed": ["db"]}, "'db' can't be removed"),
    ({"graph": {"web": ["db"]}, "stored": ["web"], "removed": ["db"]}, "can't be removed"),
    (
        {"graph": {"a": ["b"], "b": ["c"], "c": ["a"]}, "asked": ["b"]},
        "closes a cycle: a -> b -> c -> a",
    ),
    ({"graph": {"x": ["a"], "a": ["b"], "b": ["a"]}, "asked": ["x"]}, "a -> b -> a"),
]
ALLOWED: list[dict[str, Any]] = [
    {"graph": {"web": ["db"], "db": []}, "asked": ["web", "db"]},
    {"graph": {"web": ["db"], "db": []}, "asked": ["web"]},
    {"graph": {"web": ["db"]}, "asked": ["web"], "broken": ["db"]},
    {"graph": {"web": ["db"]}, "stored": ["web"]},
    {"graph": {"web": ["db"], "x": []}, "asked": ["x"], "begun": ["db"]},
    {"graph": {"web": ["db"], "db": []}, "removed": ["x"]},
    {"graph": {"a": ["b"], "b": ["a"], "x": []}, "asked": ["x"]},
    {"graph": {"a": ["b"], "b": ["a"]}, "stored": ["a", "b"]},
]


@pytest.mark.parametrize(("case", "says"), REFUSED, ids=str)
def test_refused(case: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(**case)
    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("case", ALLOWED, ids=str)
def test_allowed(case: dict[str, Any]) -> None:
    check(**case)


def test_stops_and_removals_are_the_reverse() -> None:
    some = known({"db": [], "web": ["db"], "proxy": ["web"], "other": []})
    assert dependencies.stops(["web", "db", "lost"], some) == [["web"], ["db", "lost"]]
    assert dependencies.stops(["proxy", "db", "web"], some) == [["proxy"], ["web"], ["db"]]
    shares = record("a", network_mode="container:web")
    found = dependencies.for_removal({"db", "web", "a", "lost"}, {**some, "a": shares})
    assert found == ("a", "web", "db", "lost")
    recorded = dependencies.for_recording({"a": shares, **some})
    assert recorded == ["db", "other", "web", "a", "proxy"]


@pytest.mark.parametrize("asked", ["web", "job"])
def test_a_job_has_to_end(asked: str) -> None:
    everyone = {"web": record("web", JOB), "job": record("job")}
    wishes = {asked: Desired(asked, "started", everyone[asked].spec)}
    with pytest.raises(SpecError, match="'unless-stopped' of sandbox job lets it never end"):
        dependencies.check(wishes, everyone, [], [], [])
    for policy in ("no", "on-failure"):
        everyone["job"] = record("job", restart_policy=policy)
        dependencies.check(wishes, everyone, [], [], [])
    assert dependencies.awaited(everyone.values()) == {"job"}


RUNNING, DONE = Observed(running="digest"), Observed(succeeded="digest")


def decision(name: str, **steps: Any) -> Decision:
    return Decision(name, record(name), **steps)


@pytest.mark.parametrize(
    ("decisions", "seen", "refused"),
    [
        ({}, {}, True),
        ({}, {"db": Observed()}, True),
        ({}, {"db": RUNNING}, False),
        ({"db": decision("db")}, {"db": RUNNING}, False),
        ({"db": decision("db")}, {"db": Observed()}, True),
        ({"db": decision("db", stop=True)}, {"db": RUNNING}, True),
        ({"db": decision("db", stop=True, start="restart: asked")}, {"db": RUNNING}, False),
        ({"db": decision("db", start="start")}, {"db": Observed()}, False),
    ],
)
def test_nothing_is_started_beside_what_stays_stopped(
    decisions: dict[str, Decision], seen: dict[str, Observed], refused: bool
) -> None:
    starting = known({"web": ["db"]})
    if not refused:
        dependencies.check_running(starting, decisions, seen)
        return
    with pytest.raises(SpecError, match="'db' of sandbox web is not to run"):
        dependencies.check_running(starting, decisions, seen)


def test_a_job_that_is_done_need_not_run() -> None:
    """For those that wait for its end alone."""
    web = {"web": record("web", JOB)}
    dependencies.check_running(web, {}, {"job": DONE})
    dependencies.check_running(web, {"job": decision("job")}, {"job": DONE})
    for needs, seen in ((JOB, Observed()), (["job"], DONE)):
        with pytest.raises(SpecError, match="'job' of sandbox web is not to run"):
            dependencies.check_running({"web": record("web", needs)}, {}, {"job": seen})


class Recorder(Launcher):
    """Starts nothing, and says what it was asked to."""

    def __init__(self, failing: Sequence[str] = ()) -> None:
        super().__init__(Site("/moved"))
        self.asked: list[list[str]] = []
        self.failing = failing

    def start(self, names: Iterable[str]) -> dict[str, LaunchError]:
        self.asked.append(list(names))
        return {name: LaunchError("no such file") for name in names if name in self.failing}


def started(
    graph: Mapping[str, Sequence[Any]], launcher: Recorder, failed: Failures | None = None
) -> dict[str, str]:
    """Failures of a run that starts these, "" for those that were started."""
    starts = dependencies.Starts(launcher.site, launcher, graph, known(graph))
    failures = dict(failed or {})
    for level in starts.levels():
        starts.start([name for name in level if name not in failures], failures)
    return {name: error.message for name, error in failures.items()}


def test_each_level_is_one_call() -> None:
    launcher = Recorder()
    assert started({"proxy": ["web"], "web": ["db"], "db": [], "other": []}, launcher) == {}
    assert launcher.asked == [["db", "other"], ["web"], ["proxy"]]


def test_failures_go_on_to_dependents_only() -> None:
    launcher = Recorder(failing=["db"])
    found = started({"proxy": ["web"], "web": ["db"], "db": [], "other": []}, launcher)
    assert launcher.asked == [["db", "other"]]
    assert found == {
        "db": "no such file",
        "web": "web: not started, as it depends on db, which failed: no such file",
        "proxy": "proxy: not started, as it depends on web, which is not started either",
    }


def test_a_failure_before_the_starts_counts() -> None:
    launcher = Recorder()
    found = started({"web": ["db"], "db": []}, launcher, {"db": LaunchError("no layer")})
    assert "which failed: no layer" in found["web"] and launcher.asked == []


def test_what_does_not_run_and_cycles_are_explained() -> None:
    launcher = Recorder()
    found = started({"web": ["gone"], "a": ["b"], "b": ["a"]}, launcher)
    assert set(found) == {"web", "a", "b"} and launcher.asked == []
    assert all(text.endswith("which does not run") for text in found.values())


def test_who_waits_for_health_fails_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[set[str]] = []

    def wait_each(paths: Site, deadlines: Mapping[str, float]) -> Failures:
        waited.append(set(deadlines))
        return {"db": LaunchError("db is unhealthy after 3 failed checks")}

    monkeypatch.setattr(dependencies.health, "wait_each", wait_each)
    healthy = [{"name": name, "condition": "healthy"} for name in ("db", "cache")]
    launcher = Recorder()
    graph = {"web": healthy, "lax": ["db"], "well": healthy[1:], "db": [], "cache": []}
    found = started(graph, launcher)
    assert waited == [{"db", "cache"}]
    assert launcher.asked == [["db", "cache"], ["lax", "well"]]
    assert found == {
        "web": "web: not started, as it depends on db, which is not healthy: "
        "db is unhealthy after 3 failed checks"
    }
