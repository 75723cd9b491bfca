# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One guest per Debian release for a whole run, and what is deployed on it.

SANDLOT_VM_SUITES names the releases, SANDLOT_VM_KVM=1 asks for KVM.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Generator, Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).resolve().parent))

import image  # noqa: E402
from guest import TREE, Guest, finish  # noqa: E402
from hosts import BEFORE, DEMO, DEPLOY, FINGERPRINT, RAISED, SUITES, changed, each  # noqa: E402

# What is deployed by one file is what the next one finds.
ORDER = (
    "test_unplugged",
    "test_deploy",
    "test_limits",
    "test_quotas",
    "test_shortage",
    "test_reboot",
    "test_unplugged_later",
    "test_teardown",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What a module has shown on one suite need not be shown on the other."""
    if "suite" in metafunc.fixturenames:
        wanted = getattr(metafunc.module, "SUITES_WANTED", slice(None))
        metafunc.parametrize("suite", SUITES[wanted], scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, int]:
    assert isinstance(item, pytest.Function)
    return SUITES.index(item.callspec.params["suite"]), ORDER.index(item.module.__name__)


class BySuite(LoadScopeScheduling):
    """Each suite to one worker of pytest-xdist, in order."""

    def _split_scope(self, nodeid: str) -> str:
        return next(suite for suite in SUITES if f"[{suite}" in nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> BySuite:
    return BySuite(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    report = yield
    machine = getattr(item, "funcargs", {}).get("guest")
    if report.failed and machine is not None:
        report.sections += machine.last_words()
    return report


@pytest.fixture(scope="session")
def guest(suite: str) -> Iterator[Guest]:
    """A running guest whose fingerprint was taken before anything was deployed."""
    kvm = os.environ.get("SANDLOT_VM_KVM") == "1"
    with tempfile.TemporaryDirectory(prefix=f"sandlot-{suite}-") as directory:
        yield from _running(Guest(image.cached(suite), Path(directory), kvm=kvm))


def _running(machine: Guest) -> Iterator[Guest]:
    try:
        machine.boot()
        machine.put(TREE / "tests/fingerprint.py", FINGERPRINT)
        machine.root(f"python3 {FINGERPRINT} > {BEFORE}")
        yield machine
    finally:
        machine.cut_power()


@pytest.fixture(scope="session")
def deployed(guest: Guest) -> str:
    """The output of the first deploy of the demo set."""
    return finish(guest.play(DEPLOY, DEMO))


@pytest.fixture(scope="session")
def raised(guest: Guest, deployed: str) -> tuple[int, dict[str, int]]:
    """How many tasks raising a limit changed, and the sandboxes' pids from before it."""
    pids = each(guest, "pid")
    return changed(finish(guest.play(DEPLOY, RAISED))), pids
