# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A share of what `make sweep` tries: one fault at one call of a run or of the launcher.

The sweep takes every call there is, which takes hours; here it is every STRIDE-th, each fault with
another first one. docs/reliability.md has the method and the table of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from converge_fixtures import Deployment, deployed, free_port, needs_root
from sweep.engine import LAUNCHER, MISSED, RUN, Sweep, alone, pair
from sweep.faults import FAULTS
from sweep.tracer import supported

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.skipif(not supported(), reason="system calls are numbered as on x86-64"),
]
# No divisor of anything, so that loops over files or links are not hit at one place only.
STRIDE = {RUN: 61, LAUNCHER: 53}
PAIR_STRIDE = {RUN: 23, LAUNCHER: 41}


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def check(sweep: Sweep, fault: str, first: int, stride: int) -> None:
    steps = list(sweep.sweep([fault], first=first, stride=stride))
    problems = [step for step in steps if step.problem]
    assert not problems, "\n".join(map(str, problems))
    assert any(step.outcome != MISSED for step in steps)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("target", STRIDE)
def test_a_fault_at_any_call(host: Deployment, port: int, target: str, fault: str) -> None:
    # Disks are asked for space a few times only.
    stride = 7 if fault == "ENOSPC" else STRIDE[target]
    first = 1 + FAULTS.index(fault) * 2
    check(Sweep(host, target, alone(port)), fault, first, stride)


@pytest.mark.parametrize("target", PAIR_STRIDE)
def test_killed_with_a_shared_network(host: Deployment, port: int, target: str) -> None:
    check(Sweep(host, target, pair(port)), "SIGKILL", 1, PAIR_STRIDE[target])
