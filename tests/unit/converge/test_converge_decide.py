# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Cases of (wish, what is seen) -> lines, from cases/decide.json; see there for the format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandlot.converge.decide import (
    Decision,
    Desired,
    Observed,
    Target,
    decide,
    namespace_lines,
    record_lines,
    run_lines,
    run_state,
)
from sandlot.idmap import IdRange
from sandlot.network import Interface
from sandlot.sandbox import launchfile
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import Spec, normalise

CASES = json.loads((Path(__file__).parent / "cases/decide.json").read_text())
PATHS = Site("/moved")
BASE = {"name": "web", "image": "busybox", "command": ["sleep", "inf"]}
SHORTHANDS = {
    "nothing": {},
    "stopped": {"layer": True, "pins": "whole", "namespaces": "before"},
    "running": {"layer": True, "pins": "whole", "namespaces": "before", "running": "before"},
}


def record_of(spec: Spec, case: dict[str, Any]) -> Record:
    interfaces = tuple(
        Interface(
            sandbox=spec.name,
            network=item.name,
            ifname=f"eth{index}",
            link=PATHS.link(spec.name, f"eth{index}"),
            mac=item.mac_address or "02:00:00:00:00:02",
            ipv4=f"{item.ipv4_address or '10.77.0.2'}/22",
            gateway="10.77.0.1",
        )
        for index, item in enumerate(spec.networks)
    )
    digest = case.get("image", "sha-1")
    image = ImageRef(
        spec.image.partition("@")[0],
        digest,
        (f"/images/trees/{digest}/root",),
        config={"on_image_change": case["default"]} if "default" in case else {},
    )
    return Record(
        name=spec.name,
        phase=case.get("phase", PRESENT),
        wanted=case.get("wanted", "started"),
        spec=spec,
        ids=IdRange(200000),
        image=image,
        interfaces=interfaces,
    )


def digests(record: Record) -> tuple[str, str]:
    data = launchfile.content(PATHS, record, ["/sys/fs/cgroup/sandlot/web"])
    return data["digest"], launchfile.namespace_digest(data, record)


def seen_of(case: dict[str, Any], before: Record | None) -> Observed:
    shown = case["seen"]
    values = dict(SHORTHANDS[shown] if isinstance(shown, str) else shown)
    launch, namespaces = digests(before) if before else ("", "")
    known = (("running", launch), ("succeeded", launch), ("namespaces", namespaces))
    for key, digest in known:
        if values.get(key) == "before":
            values[key] = digest
    return Observed(record=before, **values)


def decision_of(case: dict[str, Any]) -> Decision:
    spec = normalise({**BASE, **case["wish"]})
    before = None
    if "before" in case:
        old = normalise({**BASE, **case["before"].get("spec", {})})
        before = record_of(old, case["before"])
    wish = Desired(spec.name, spec.state, spec, restart=spec.restart, recreate=spec.recreate)
    record = record_of(
        spec,
        {
            "image": case.get("image", "sha-1"),
            "wanted": run_state(wish, before),
            **{key: case[key] for key in ("default",) if key in case},
        },
    )
    launch, namespaces = digests(record)
    return decide(
        Target(wish, record, {"digest": launch}, namespaces, job=case.get("job", False)),
        seen_of(case, before),
        case.get("rejoin", ""),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_lines(case: dict[str, Any]) -> None:
    decision = decision_of(case)
    lines = [*record_lines(decision), *namespace_lines(decision), *run_lines(decision)]
    assert [line.describe() for line in lines] == case["lines"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_what_is_done_is_told(case: dict[str, Any]) -> None:
    """No step is silent unless another line of the same sandbox speaks for it."""
    decision = decision_of(case)
    acts = (decision.write_record, decision.create, decision.stop, bool(decision.start))
    assert any(acts) == bool(case["lines"])


def test_a_finished_run_leaves_nothing_to_do() -> None:
    """Whatever a case began with: once its decision is carried out, there is no next line."""
    for case in CASES:
        first = decision_of(case)
        record = first.record.in_phase(PRESENT)
        launch, namespaces = digests(record)
        runs = first.start or (seen_of(case, None).running and not first.stop)
        state = "started" if record.wanted == "started" and runs else "present"
        after = Observed(record, True, "whole", namespaces, launch if runs else None)
        wish = Desired(record.name, state, record.spec)
        again = decide(Target(wish, record, {"digest": launch}, namespaces), after)
        assert not record_lines(again) + namespace_lines(again) + run_lines(again), case["id"]


def test_a_version_that_has_not_proved_itself_can_be_taken_back() -> None:
    """A killed run has written the new record, and may have started the new version."""
    old, new = (
        record_of(normalise({**BASE, "image": name}), {"image": f"sha-{name}"})
        for name in ("busybox", "alpine")
    )
    launch, namespaces = digests(new)
    target = Target(Desired("web", "started", new.spec), new, {"digest": launch}, namespaces)

    def way_back(state: str = "started", **seen: Any) -> Record | None:
        observed = Observed(new, True, "whole", namespaces, **{"running": launch, **seen})
        goal = replace(target, desired=replace(target.desired, state=state))
        return decide(goal, observed).way_back(observed)

    assert way_back(previous=old) == old
    assert way_back(previous=old, running=None) == old
    assert way_back(previous=old, running="other") == old
    assert way_back(previous=old, state="stopped") is None
    assert way_back(previous=old, state="present", running=None) is None
    assert way_back(previous=new) is None and way_back() is None
