# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One machine per Debian release for a whole run, and the tree as its user has cloned it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

import lan  # noqa: E402
import machine  # noqa: E402
import newcomers  # noqa: E402
import roots  # noqa: E402
from newcomers import WAYS, Newcomer, Way  # noqa: E402
from readme import TREE  # noqa: E402


def _clone(way: Way, root: Path) -> None:
    """What git knows of this tree, and what it doesn't know yet, as that user would have it."""
    place = root / "home" / roots.USER / way.directory
    os.makedirs(place.parent, exist_ok=True)
    # The user gets all of it, and linked files would be this tree's own.
    command = ["git", "clone", "--quiet", "--no-hardlinks", str(TREE), str(place)]
    subprocess.run(command, check=True, umask=way.umask)
    listing = ["git", "-C", str(TREE), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    there = "\0".join(name for name in names if (TREE / name).exists() and name)
    copy = ["xargs", "-0", "cp", "--parents", "-d", "-t", str(place)]
    subprocess.run(copy, cwd=TREE, input=there, text=True, check=True, umask=way.umask)


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
    with contextlib.ExitStack() as stack:
        archive = roots.local(way.suite)
        address = f"192.0.2.{100 + WAYS.index(way)}"
        home = f"/home/{roots.USER}"
        # So that what is the same for all is downloaded once.
        downloads = roots.cache() / "pip"
        downloads.mkdir(exist_ok=True)
        shared = {f"{home}/.cache/pip": downloads}
        making = machine.running(network, archive, way.suite, address, shared)
        host = stack.enter_context(making)
        _clone(way, host.root)
        with open(host.root / home[1:] / ".profile", "a") as file:
            file.write(way.profile)
        host.run("chown", "-R", f"{roots.USER}:{roots.USER}", home)
        yield Newcomer(host, way, network)


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
