# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The closing words of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sandlot import converge
from sandlot.converge import summary
from sandlot.converge.summary import Row
from sandlot.errors import SpecError
from sandlot.site import Site
from sandlot.spec import normalise
from sandlot.spec.values import PublishedPort


def result(**fields: Any) -> converge.Result:
    values = {"changed": True, "actions": [], "sandboxes": {}, "diff": {}, "relaxed": {}, **fields}
    return converge.Result(**values)


def records(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names)


@pytest.mark.parametrize(
    ("port", "address", "text"),
    [
        (("", 8080, 80, "tcp"), "127.0.0.1", "http://127.0.0.1:8080/"),
        (("0.0.0.0", 8443, 443, "tcp"), "web.example", "https://web.example:8443/"),
        (("", 8080, 80, "tcp"), "fd77::1", "http://[fd77::1]:8080/"),
        (("", 5432, 5432, "tcp"), "192.0.2.10", "192.0.2.10:5432"),
        (("", 53, 53, "udp"), "192.0.2.10", "192.0.2.10:53/udp"),
        (("127.0.0.1", 8080, 80, "tcp"), "192.0.2.10", "http://127.0.0.1:8080/ on the host"),
        (("127.0.0.1", 8080, 80, "tcp"), "127.0.0.1", "http://127.0.0.1:8080/"),
        (("192.0.2.9", 8080, 80, "tcp"), "192.0.2.10", "http://192.0.2.9:8080/"),
        (("::", 8080, 80, "tcp"), "192.0.2.10", "http://[::]:8080/"),
        (("::", 8080, 80, "tcp"), "fd77::1", "http://[fd77::1]:8080/"),
        (("::", 8080, 80, "tcp"), "web.example", "http://web.example:8080/"),
        (("0.0.0.0", 5432, 5432, "tcp"), "fd77::1", "0.0.0.0:5432"),
    ],
)
def test_addresses(port: tuple[str, int, int, str], address: str, text: str) -> None:
    assert summary.answer(PublishedPort(*port), address) == text


WEB = Row("web", answers=("http://127.0.0.1:8080/",))
MANY = [Row(f"s{number}") for number in range(6)]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "runs no sandbox"),
        ([WEB, Row("a")], "runs web at http://127.0.0.1:8080/, a"),
        ([Row("a", health="healthy")], "runs a (healthy)"),
        ([Row("a", "stopped"), Row("b", "crash-loop")], "runs no sandbox; crash-loop b; stopped a"),
        (MANY, "runs 6 sandboxes"),
        ([*MANY, WEB], "runs 7 sandboxes, web at http://127.0.0.1:8080/"),
        ([Row(f"s{n}", health="healthy") for n in range(40)], "runs 40 sandboxes (40 healthy)"),
        ([Row(f"s{n}", answers=("a:1",)) for n in range(40)], "of them with published ports"),
        ([Row(f"s{n}", "stopped") for n in range(7)], "stopped s0, s1, s2, s3 and 3 more"),
    ],
)
def test_states(rows: list[Row], text: str) -> None:
    assert summary.states(rows) == text or (text in summary.states(rows) and len(rows) > 6)


IMAGE = {"name": "busybox", "verb": "made", "size": 1984308, "seconds": 0.4}


@pytest.mark.parametrize(
    ("names", "check", "text"),
    [
        ("web", False, "what web wrote is kept as a snapshot; to get it back, {}"),
        (
            "gone",
            False,
            "what gone wrote is kept as a snapshot; to get it back, deploy gone again ",
        ),
        ("web gone", False, "what gone, web wrote is kept as 2 snapshots; to get it back, deploy "),
        ("web", True, "what web wrote would be kept as a snapshot"),
    ],
)
def test_what_is_set_aside(names: str, check: bool, text: str) -> None:
    aside = {name: {"set_aside": {"id": "20261129T134500Z"}} for name in names.split()}
    done = result(sandboxes={"web": {}, **aside}, records=records("web"), check=check)
    command = "sudo sandlot snapshots restore web 20261129T134500Z"
    assert "".join(summary.kept(done)).startswith(text.format(command))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"changed": False}, "nothing changed"),
        ({}, "images or networks changed"),
        ({"changed": False, "check": True}, "nothing to change"),
        ({"changes": {"a": "made"}}, "1 made, 1 unchanged"),
        ({"changes": {"a": "made", "b": "made"}, "check": True}, "2 to make"),
        ({"changes": {"a": "removed", "b": "rebuilt"}}, "1 rebuilt, 1 removed"),
        ({"changes": {"a": "made"}, "failed": {"a": "no"}}, "images or networks changed"),
        ({"images_made": [IMAGE]}, "image busybox made (2.0 MB in 0.4 s), 2 unchanged"),
        ({"images_due": ["busybox"], "check": True}, "image busybox to make, 2 unchanged"),
    ],
)
def test_changes(fields: dict[str, Any], text: str) -> None:
    assert summary.changes(result(records=records("a", "b"), **fields)) == text


def test_sandboxes_that_are_not_listed(tmp_path: Path) -> None:
    site = Site(str(tmp_path))
    for name in ("old", "gone"):
        os.makedirs(site.sandbox(name).state)
    listed = result(changed=False)
    assert (
        summary.summary(site, listed, "") == "runs no sandbox; 2 others left alone; nothing changed"
    )
    purged = result(changes={"gone": "removed"}, check=True)
    assert summary.summary(site, purged, "") == (
        "would run no sandbox; 1 other left alone; 1 to remove"
    )


def test_the_message_of_a_failure_ends_with_remedies() -> None:
    failed = {"web": "web: start: no; do that", "bad": "its workload ended"}
    sandboxes = {"bad": {"crash": {"state": "exited"}}}
    done = result(failed=failed, sandboxes=sandboxes, records=records("web", "bad", "c"))
    assert summary.failure(done).splitlines() == [
        "2 of 3 sandboxes failed, the others did not",
        "bad: its workload ended",
        "web: start: no; do that",
        "sudo sandlot logs bad and sudo sandlot inspect bad show more",
    ]
    alone = result(failed={"web": "start: no"}, records=records("web"))
    assert summary.failure(alone) == "web: start: no"


def test_a_run_about_some_sandboxes_only() -> None:
    common = {"image": "busybox", "command": ["x"]}
    specs = [normalise({"name": name, **common}) for name in ("a", "b")]
    chosen = converge.request(specs, only=["b"]).sandboxes
    assert chosen is not None and [desired.name for desired in chosen] == ["b"]
    assert converge.request(specs, only=[]).sandboxes == ()
    with pytest.raises(SpecError, match=r"only: 'c' is not a listed sandbox; .* listed: a, b"):
        converge.request(specs, only=["a", "c"])
    with pytest.raises(SpecError, match="can't be combined with purge"):
        converge.request(specs, only=["a"], purge=True)
