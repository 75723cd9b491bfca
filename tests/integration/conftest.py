# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Fixtures of more than one module; they need root, a module asks for them by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fingerprint
import isolation
import pytest
import session_trees
import static_busybox
from converge_fixtures import Deployment, Reused, deployed
from mount_fixtures import each_way
from sandboxes import fresh_host, module_host, sandbox_host
from sandlot.images import busybox

MACHINE = pytest.StashKey[fingerprint.Fingerprint]()
# What takes longest begins first.
LONG = (
    *(
        "test_compose_deployed.py",
        "test_images_debian.py",
        "test_faults_kill.py",
        "test_converge_modules.py",
        "test_check_mode.py",
        "test_check_mode_kinds.py",
    ),
    *("test_data_databases.py", "test_published_databases.py", "test_published_services.py"),
    *("test_controllers.py", "test_exhausted.py", "test_network_ipv6.py"),
    *("test_upgrade_dd050e5.py", "test_rebuild.py"),
    *("test_network_spoof6.py", "test_network_repair.py", "test_cli_host.py"),
    *("test_network_drift.py", "test_network_policy.py", "test_network_reach.py"),
    *("test_upgrade.py", "test_network_policy6.py", "test_state_corpus.py"),
    *("test_images_store.py", "test_depends_on.py", "test_cli_explain.py", "test_converge.py"),
    *("test_images_faults.py", "test_converge_oci.py", "test_images_download.py"),
    *("test_faults.py", "test_network_rates.py", "test_network_live.py"),
)
__all__ = ["each_way", "fresh_host", "module_host", "sandbox_host"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deploy-each",
        action="store_true",
        help="a deployment and a fingerprint for each test, to find the one that leaves something",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not static_busybox.PROGRAM.exists():
        raise pytest.UsageError(f"{static_busybox.PROGRAM} is missing: run make test-packages")
    # By the order below, not by the number of tests.
    config.option.loadscopereorder = False
    runs_tests = hasattr(config, "workerinput") or not _has_workers(config)
    if os.geteuid() == 0 and runs_tests:
        isolation.isolate()


def _has_workers(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "numprocesses", None))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker has a long one left when the other has ended."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    if Path(__file__).parent not in item.path.parents:
        return len(LONG) + 1
    return LONG.index(item.path.name) if item.path.name in LONG else len(LONG)


def pytest_sessionstart(session: pytest.Session) -> None:
    """With workers, what the machine looks like is compared once, by the process above them."""
    if _has_workers(session.config) and os.geteuid() == 0:
        session.stash[MACHINE] = fingerprint.fingerprint()


def pytest_sessionfinish(session: pytest.Session) -> None:
    session_trees.remove()
    before = session.stash.get(MACHINE, None)
    if before is None or os.environ.get("SANDLOT_SHARED_HOST"):
        return
    changes = fingerprint.diff(before, fingerprint.fingerprint())
    if changes:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.hook.pytest_runtest_logreport(report=_error("\n".join(changes)))


def _error(text: str) -> pytest.TestReport:
    """A failure of no test, which the summary counts and shows."""
    title = "the machine is not as it was found"
    return pytest.TestReport(title, (title, 0, title), {}, "failed", text, "teardown")


@pytest.fixture(scope="module", autouse=True)
def busybox_images() -> Iterator[None]:
    """Images that this process makes have the static busybox, whichever one the host has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(busybox, "CANDIDATES", (str(static_busybox.PROGRAM),))
        yield


@pytest.fixture(scope="module")
def reused() -> Iterator[Reused]:
    """The deployment of a module."""
    found = Reused()
    yield found
    found.close()


@pytest.fixture
def host(reused: Reused, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A host with the runtime, a network and an image, as if it were the test's own."""
    each = request.config.getoption("--deploy-each")
    with reused.lent(keep=not each) as deployment:
        yield deployment


@pytest.fixture
def own_host() -> Iterator[Deployment]:
    """A deployment of the test's own, for those that damage, upgrade or take it down."""
    with deployed() as deployment:
        yield deployment
