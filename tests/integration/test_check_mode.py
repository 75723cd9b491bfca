# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A check foretells the run and touches nothing: each option set, again, changed and withdrawn."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from check_fixtures import Look
from converge_fixtures import Deployment, deployed, needs_root, sandbox
from image_fixtures import prepare
from option_values import BESIDE, OTHER, THIRD
from sandlot import audit, images
from sandlot.converge import Result
from sandlot.spec.options import BY_NAME, STORED
from test_lxcfs import LIBRARIES, server

pytestmark = needs_root
UNTRIED = {
    "name": "a sandbox of another name is another sandbox",
    "env_file": "the controller reads the files; test_check_mode_modules.py has it",
    **({} if LIBRARIES else {"lxcfs": "this machine has no lxcfs"}),
}
TRIED = [name for name in BY_NAME if name not in UNTRIED]
# What options do that no record has: rounds in which they change something, by state. All others
# but these are about the run itself.
ACTIONS = {
    "state": {"started": {"set", "withdrawn"}},
    "restart": {"started": {"set", "again", "changed"}},
    "recreate": dict.fromkeys(("started", "stopped"), {"set", "again", "changed"}),
}
DB = {"healthcheck": {"test": ["CMD", "true"]}}
ROUNDS = ("made", "set", "again", "changed", "withdrawn", "removed")


@dataclass
class Round:
    """One run of all sandboxes, the check before it, and the one after it."""

    touched: list[str]
    """Differences after the check."""
    moved: list[str]
    """Differences after the run: the control."""
    checked: Result
    done: Result
    after: Result
    audited: dict[str, Any]


def title(option: str) -> str:
    """The sandbox that has the option."""
    return f"{option.replace('_', '-')}-1"


def spec(option: str, which: str, state: str) -> dict[str, Any]:
    plain = {**sandbox(title(option), state=state), **BESIDE.get(option, {})}
    if which in ("made", "withdrawn"):
        return plain
    third = which == "changed" and option in THIRD
    return {**plain, option: (THIRD if third else OTHER)[option]}


def specs(host: Deployment, which: str, state: str) -> list[dict[str, Any]]:
    if which == "removed":
        return []
    listed = [sandbox("db", **DB), *(spec(option, which, state) for option in TRIED)]
    local: list[dict[str, Any]] = json.loads(
        json.dumps(listed).replace("10.77.", f"{host.prefix}.")
    )
    return local


def turn(host: Deployment, *wanted: dict[str, Any]) -> Round:
    options = {"purge": True, "diff": True}
    before = Look(host)
    checked = host.run(*wanted, check=True, **options)
    touched = before.touched()
    done = host.run(*wanted, **options)
    moved, audited = before.files(), audit.audit(host.paths, None)
    return Round(touched, moved, checked, done, host.run(*wanted, check=True, **options), audited)


@pytest.fixture(scope="module", params=["started", "stopped"])
def rounds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Round]]:
    """All sandboxes at a time, as one for each option would take minutes."""
    with deployed() as host, contextlib.ExitStack() as stack:
        if "lxcfs" in TRIED:
            stack.enter_context(server(host))
        prepare(host, *_images(host, tmp_path_factory.mktemp("images")))
        yield {which: turn(host, *specs(host, which, request.param)) for which in ROUNDS}


def _images(host: Deployment, top: Path) -> Iterator[dict[str, Any]]:
    for name in (OTHER["image"], THIRD["image"]):
        shutil.copytree(images.lookup(host.paths, "busybox").root, top / name, symlinks=True)
        (top / name / "etc/issue").write_text(name)
        yield {"name": name, "source": "directory", "path": str(top / name)}


def differences(result: Result) -> Any:
    """The diff of the sandboxes; that of files follows it."""
    return result.diff[0] if isinstance(result.diff, list) else result.diff


def facts(result: Result, name: str) -> dict[str, Any]:
    """Those of a sandbox; a snapshot has its id and time from the run."""
    found = dict(result.sandboxes[name])
    if "set_aside" in found:
        found["set_aside"] = {**found["set_aside"], "id": None, "created": None}
    return found


def test_each_option_is_tried_or_listed() -> None:
    assert {*TRIED, *UNTRIED} == {*OTHER} == {*BY_NAME}
    others = {n: [x for x in row.choices if x != row.default] for n, row in BY_NAME.items()}
    two = {name for name, row in BY_NAME.items() if row.type == "bool" or len(others[name]) == 1}
    assert {*OTHER} - {*THIRD} == {*two, "name", "env_file"}


@pytest.mark.parametrize("which", ROUNDS)
def test_a_check_touches_nothing_and_tells_all(rounds: dict[str, Round], which: str) -> None:
    turn = rounds[which]
    assert not turn.touched and not turn.done.failed, turn.done.failed
    assert bool(turn.moved) == turn.done.changed
    for part in ("changed", "actions", "diff", "changes", "relaxed", "warnings", "started"):
        assert getattr(turn.checked, part) == getattr(turn.done, part), part
    for name in turn.done.sandboxes:
        assert facts(turn.checked, name) == facts(turn.done, name)


@pytest.mark.parametrize("option", TRIED)
def test_each_difference_of_an_option_is_a_change(rounds: dict[str, Round], option: str) -> None:
    name, stored = title(option), option in {row.name for row in STORED}
    state = rounds["made"].done.sandboxes[title("labels")]["state"]
    expected = {"set", "withdrawn", *(["changed"] if option in THIRD else [])}
    expected = expected if stored else ACTIONS.get(option, {}).get(state, set())
    changing = [which for which in ROUNDS[1:-1] if rounds[which].done.sandboxes[name]["changed"]]
    assert {*changing} == expected
    for which in changing if stored else ():
        after = differences(rounds[which].done)["after"][name]
        assert [key.partition(" ")[0] for key in after if key != "layer"] == [option]


@pytest.mark.parametrize("which", ROUNDS)
def test_a_check_after_a_run_finds_nothing(rounds: dict[str, Round], which: str) -> None:
    asked = {title(option) for option in ("restart", "recreate")}
    assert rounds[which].audited["findings"] == []
    left = [line for line in rounds[which].after.actions if line.partition(":")[0] not in asked]
    assert left == []
