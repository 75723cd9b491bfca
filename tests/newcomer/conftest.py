# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One machine per Debian release for a whole run, and the tree as its user has cloned it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

import lan  # noqa: E402
import newcomers  # noqa: E402
import roots  # noqa: E402
from newcomers import WAYS, Newcomer, Way  # noqa: E402


class ByNewcomer(LoadScopeScheduling):
    """Each newcomer to one worker of pytest-xdist, in order."""

    def _split_scope(self, nodeid: str) -> str:
        return next((way.suite for way in WAYS if nodeid.endswith(f"[{way.suite}]")), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByNewcomer:
    return ByNewcomer(config, log)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "suites(*names): the newcomers who do this")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a newcomer does not do."""
    items[:] = [item for item in items if _is_done(item)]


def _is_done(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("suites")
    return not marker or item.nodeid.endswith(tuple(f"[{suite}]" for suite in marker.args))


@pytest.fixture(scope="session")
def network() -> Iterator[lan.Lan]:
    with lan.made() as made:
        yield made


@pytest.fixture(scope="session", params=WAYS, ids=lambda way: way.suite)
def newcomer(request: pytest.FixtureRequest, network: lan.Lan) -> Iterator[Newcomer]:
    way: Way = request.param
    address = f"192.0.2.{100 + WAYS.index(way)}"
    with contextlib.ExitStack() as stack:
        yield newcomers.arrived(stack, network, way, roots.local(way.suite), address)


@pytest.fixture(autouse=True)
def times(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has typed goes into its report, which reaches the terminal from any worker."""
    yield
    request.node.user_properties += [("typed", line) for line in newcomers.times]
    newcomers.times.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line("Seconds of what was typed:")
    for report in terminalreporter.stats.get("", []):
        for name, text in report.user_properties:
            if name == "typed":
                terminalreporter.write_line(text)
