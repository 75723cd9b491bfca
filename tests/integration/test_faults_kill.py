# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A share of what `make sweep` tries: one fault at one call of a run or of the launcher.

The sweep takes every call there is, which takes hours; here it is every STRIDE-th, each fault with
another first one. docs/faults.md has the method and the table of the whole.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from converge_fixtures import Deployment, deployed, free_port, needs_root, sandbox
from sweep import engine
from sweep.engine import LAUNCHER, MISSED, RUN, Sweep, alone, pair
from sweep.faults import FAULTS
from sweep.tracer import supported

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.skipif(not supported(), reason="system calls are numbered as on x86-64"),
]
# Primes, so that loops over files or links are not hit at one place only.
STRIDE = {RUN: 127, LAUNCHER: 101}
PAIR_STRIDE = {RUN: 53, LAUNCHER: 71}
# Disks are asked for space a few times only.
SPACE_STRIDE = 23


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def check(sweep: Sweep, fault: str, **options: Any) -> None:
    steps = list(sweep.sweep([fault], **options))
    problems = [step for step in steps if step.problem]
    assert not problems, "\n".join(map(str, problems))
    assert any(step.outcome != MISSED for step in steps)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("target", STRIDE)
def test_a_fault_at_any_call(host: Deployment, port: int, target: str, fault: str) -> None:
    stride = SPACE_STRIDE if fault == "ENOSPC" else STRIDE[target]
    check(Sweep(host, target, alone(port)), fault, first=1 + FAULTS.index(fault), stride=stride)


@pytest.mark.parametrize("target", PAIR_STRIDE)
def test_killed_with_a_shared_network(host: Deployment, port: int, target: str) -> None:
    check(Sweep(host, target, pair(port)), "SIGKILL", stride=PAIR_STRIDE[target])


def test_killed_around_a_file_system_in_a_file(host: Deployment) -> None:
    """A layer that is mounted is found by its place, whatever the killed run was about to do."""
    variants = [[sandbox("web", disk_size=size)] for size in ("16m", "24m")]
    check(Sweep(host, RUN, variants), "SIGKILL", scenarios=["rebuild"], only=["umount2"])


@pytest.mark.parametrize("fault", ["ENOMEM", "SIGKILL"])
def test_no_message_of_a_start_is_waited_for_in_vain(
    host: Deployment, port: int, fault: str
) -> None:
    """Who is not told that the other side failed would wait for a minute."""
    sweep = Sweep(host, LAUNCHER, alone(port))
    check(sweep, fault, scenarios=["deploy"], only=["sendto"])


def _nothing() -> dict[str, str]:
    return {}


def _unexplained() -> dict[str, str]:
    raise ValueError("unexplained")


def _hanging() -> dict[str, str]:
    signal.pause()
    return {}


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (_nothing, "told to be done, but the next run found: web: create"),
        (_unexplained, "not explained: ValueError: unexplained"),
        (_hanging, "no end within 1 seconds"),
    ],
)
def test_the_sweep_notices(
    host: Deployment,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[], dict[str, str]],
    problem: str,
) -> None:
    """The control: runs that do nothing, raise what is no error of ours, never end."""
    sweep = Sweep(host, RUN, alone(port))
    monkeypatch.setattr(engine, "DEADLINE", 1.0)
    monkeypatch.setattr(sweep, "_action", lambda _scenario: (action, sweep.variants[0]))
    assert sweep.step("deploy", "SIGKILL", 1).problem.startswith(problem)
